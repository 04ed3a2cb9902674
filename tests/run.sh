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

step() {
    echo "== $*" >&2
    "$@"
}
step cargo fmt --check
step cargo clippy --release --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --release --no-deps
step cargo test --release
