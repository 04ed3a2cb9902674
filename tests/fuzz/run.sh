#!/bin/sh
# A target of targets.rs under cargo-fuzz: sh tests/fuzz/run.sh NAME [SECONDS]. Needs nightly and cargo-fuzz
# (cargo install cargo-fuzz). What it finds lies in tests/fuzz/artifacts.
set -eu
cd "$(dirname "$0")/../.."
name=$1
seconds=${2:-1200}
FUZZ_SEEDS=$PWD/tests/fuzz/corpus cargo test --quiet --test import fuzzed::what_is_sound >&2
FUZZ=$name cargo +nightly fuzz run --fuzz-dir tests/fuzz --sanitizer none any "tests/fuzz/corpus/$name" -- \
    -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=20 -max_len=65536
