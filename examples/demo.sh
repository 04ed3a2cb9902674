#!/bin/sh
# Everything from a bare machine with a Rust toolchain to a trained model: sees to a Vulkan driver,
# builds, and runs `modalign demo`. Arguments go to the demo (try --help).
set -eu
cd "$(dirname "$0")/.."
. ./.ci/driver.sh
exec cargo run --release --quiet -- demo "$@"
