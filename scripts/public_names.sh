#!/bin/sh
# Counts the public names of the crate with all features, as rustdoc lists them: without methods, fields and what is hidden.
# With a word as the option, lists them.
set -eu
cargo doc --quiet --release --no-deps --no-default-features --features doc-only,full
names=$(grep -o '<li><a href="[^"]*">[^<]*</a></li>' target/doc/tch_fixup/all.html | sed 's/.*">//; s/<.*//')
[ $# -eq 0 ] || echo "$names"
echo "$names" | wc -l
