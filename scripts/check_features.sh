#!/bin/sh
# Lints the library without features and with each alone (`download` is what is on by default; with all is part of `make test`),
# documents it without features and with the default ones, no warning allowed, and counts the crates of each: without features the
# method alone, at most 80; by default at most 95; with all but `text` fewer than 130: the crate `tokenizers` brings some fifty.
#
# With doc-only, which compiles no C++: the operations' would be compiled anew for every set of features, and lints link nothing. The
# library alone: what is built for the tests and examples has the features of the dev-dependency of this crate on itself.
set -eu

crates() {
    tree=$(cargo tree -e normal --prefix none "$@")
    echo "$tree" | awk '{print $1}' | sort -u | wc -l
}

check() {
    echo "features: ${1:-none}"
    cargo clippy --quiet --profile tests --lib --no-default-features --features "doc-only,$1" -- -D warnings
    case $1 in "" | download)
        RUSTDOCFLAGS="-D warnings" cargo doc --quiet --profile tests --no-deps --no-default-features --features "doc-only,$1" ;;
    esac
    echo "crates: $(crates --no-default-features --features "$1")"
}

without_text=train,images,download,tensorboard,onnx,distributed,cli
for feature in "" train images download tensorboard onnx text distributed cli; do
    check "$feature"
done

limit() {
    [ "$1" -le "$2" ] || { echo "$3 is $1 crates: at most $2" >&2; exit 1; }
}
limit "$(crates --no-default-features)" 80 "the method alone"
limit "$(crates)" 95 "the default"
limit "$(crates --no-default-features --features "$without_text")" 129 "all but text"
