#!/bin/sh
# All checks, in the order in which they fail fastest.
set -eu
cd "$(dirname "$0")/.."

# rustup names a missing component in many lines; this is the one that helps.
need() {
    cargo "$1" --version >/dev/null 2>&1 || {
        echo "tests/run.sh: cargo $1 is missing: rustup component add $2" >&2
        exit 1
    }
}
need fmt rustfmt
need clippy clippy
. ./.ci/driver.sh
. ./.ci/bert.sh
. ./.ci/browser.sh
. ./.ci/validators.sh

# A build that is thrown away does without what makes the next one quicker.
[ -z "${CI:-}" ] || export CARGO_INCREMENTAL=0

step() {
    echo "== $*" >&2
    "$@"
}
step cargo fmt --check
step cargo clippy --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --no-deps
# The engine alone, as a guest in other programs has it, and each floor above it by itself: what a floor
# leaves unused the compiler tells, and clippy has seen all of the code above.
for floor in "" bert data import audio train experiment report bench; do
    echo "== cargo check --no-default-features --features \"$floor\"" >&2
    said=$(cargo check --no-default-features --features "$floor" 2>&1) || {
        echo "$said" >&2
        exit 1
    }
    case $said in
    *warning:*)
        echo "$said" >&2
        exit 1
        ;;
    esac
done
RUSTDOCFLAGS="-D warnings" step cargo doc --no-deps --no-default-features
crates=$(cargo tree -e normal --no-default-features --prefix none | sort -u | wc -l)
echo "== the engine alone is $crates crates" >&2
[ "$crates" -le 90 ] || {
    echo "tests/run.sh: the engine alone needs $crates crates, at most 90 are allowed" >&2
    exit 1
}
step cargo test
