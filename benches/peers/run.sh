#!/bin/sh
# The same work in modalign, burn, candle and PyTorch, in turns, as a table of ratios. See README.md.
#   sh benches/peers/run.sh [--only lstm,matmul] [--peers modalign,torch] [--rounds N] [--limit SECONDS]
set -eu
cd "$(dirname "$0")"
if ! command -v python3 > /dev/null; then
    echo "peers: python3 is needed, which runs the peers in turns; nothing was measured" >&2
    exit 1
fi
exec python3 run.py "$@"
