#!/bin/sh
# What a fresh process takes: the adapters' list, a prediction of a small model, the first training
# step of the default three-modality model. Milliseconds, fastest and median of some processes each,
# after one that fills the driver's shader cache.
#
#   cargo build --release && sh benches/start.sh [PROCESSES]
#   MESA_SHADER_CACHE_DISABLE=true sh benches/start.sh 3    # Mesa: what that cache is worth
#
# The first step's time is from the start of main to the loss on the host, as `-vv` logs it.
set -eu
count=${1:-11}
modalign=${MODALIGN:-$(dirname "$0")/../target/release/modalign}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Fastest and median of the numbers on stdin.
summary() {
    sort -n | awk -v name="$1" '{ t[NR] = $1 }
        END { printf "%-34s fastest %7.0f   median %7.0f\n", name, t[1], t[int((NR + 1) / 2)] }'
}

# Wall milliseconds of a command, as often as asked.
walls() {
    for _ in $(seq "$count"); do
        begin=$(date +%s%N)
        "$@" > /dev/null 2>&1
        end=$(date +%s%N)
        echo $(((end - begin) / 1000000))
    done
}

# One batch, so that the first step's loss is the first to arrive.
"$modalign" -q synth --out "$folder/one.safetensors" --train 16 --valid 16 --test 16 \
    --text dim=768 --audio dim=5,steps=500,min_steps=250 \
    --vision dim=20,steps=375,min_steps=180 > /dev/null
train() {
    rm -rf "$folder/run"
    "$modalign" -vv train --data "$folder/one.safetensors" --max-epochs 1 \
        --set train.accumulate=1 --out "$folder/run" 2>&1
}
train > /dev/null
for _ in $(seq "$count"); do
    train | awk '/losses on the host/ { print $2; exit }'
done | summary "first step's loss"
walls "$modalign" predict --model "$folder/run" --data "$folder/one.safetensors" |
    summary "predict, 16 rows, whole process"
walls "$modalign" devices | summary "devices, whole process"
