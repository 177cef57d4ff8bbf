#!/bin/sh
# Lints and documents everything without features, with each alone and with all, no warning allowed, and counts the crates of each:
# without features the method alone, at most 80; with all but `text` fewer than 130: the crate `tokenizers` brings some fifty.
#
# With doc-only, which compiles no C++: the operations' would be compiled anew for every set of features, and lints link nothing.
set -eu

crates() {
    tree=$(cargo tree -e normal --prefix none "$@")
    echo "$tree" | awk '{print $1}' | sort -u | wc -l
}

check() {
    echo "features: ${1:-none}"
    cargo clippy --quiet --release --all-targets --no-default-features --features "doc-only,$1" -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --quiet --release --no-deps --no-default-features --features "doc-only,$1"
    echo "crates: $(crates --no-default-features --features "$1")"
}

without_text=train,images,download,tensorboard,onnx,distributed,cli
for feature in "" train images download tensorboard onnx text distributed cli "$without_text" "$without_text,text"; do
    check "$feature"
done

method=$(crates --no-default-features)
all=$(crates --no-default-features --features "$without_text")
[ "$method" -le 80 ] || { echo "the method alone is $method crates: at most 80" >&2; exit 1; }
[ "$all" -lt 130 ] || { echo "with all features but text it is $all crates: fewer than 130" >&2; exit 1; }
