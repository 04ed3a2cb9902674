#!/bin/sh
# All that is worth knowing of modalign on a machine with a GPU, from the built program alone: no toolchain,
# no data, no network. Eight minutes at most, two with --quick.
#
#   sh benches/gpu.sh [--quick] [--out gpu.json] [--adapter NAME]
#
# Writes one JSON file to send, and prints a table of ratios: modalign's time beside that of PyTorch on
# CUDA for the same work, taken in turns, where there is a Python with that, and beside predictions. Every
# part has a time limit; one that fails is in the file with its reason and stops nothing.
#
# MODALIGN names the program (default: the one in the PATH, or built in this tree), PYTHON the Python
# (python3). For trials: LIMIT, the most seconds of a part; ROWS, rows of the MOSEI-shaped set; ONLY, parts
# by name; GPU_DEVICE=cpu has PyTorch run on the CPU.
set -u

# Data and an encoder: nothing in them is real but their shapes.
sets() {
    "$MODALIGN" synth --quiet --out "$work/default.safetensors" --train 160 --valid 16 --test 16 \
        --text dim=768 --audio dim=5,steps=375,min_steps=187 \
        --vision dim=20,steps=375,min_steps=187 >&2 || return 1
    "$MODALIGN" synth --quiet --out "$work/text.safetensors" --train 256 --valid 16 --test 16 \
        --encoder "$work/bert" --encoder-size base >&2 || return 1
    "$MODALIGN" synth --quiet --out "$work/mosei.safetensors" --train "$rows" --valid 128 --test 32 \
        --text dim=768 --audio dim=74,steps=500,min_steps=125 \
        --vision dim=35,steps=500,min_steps=125 >&2
}

# Three epochs; the program says on stderr what each took: `epoch   1/3    0.9 s  loss …`.
epochs() {
    "$MODALIGN" train --data "$work/mosei.safetensors" --out "$work/run" --max-epochs 3 \
        --set train.accumulate=1 >/dev/null 2>"$work/epochs.log"
    epochs_status=$?
    cat "$work/epochs.log" >&2
    times=$(sed -n 's|^epoch *[0-9]*/[0-9]* *\([0-9.]*\) s .*|\1|p' "$work/epochs.log" | tr '\n' ',')
    printf '{"rows": %s, "valid": 128, "seconds": [%s]}\n' "$rows" "${times%,}" >"$work/epoch.json"
    return $epochs_status
}

# What a part does that is more than one command: `timeout` runs programs, not functions.
case ${1:-} in
    --inner) "$2"; exit $? ;;
esac

here=$(cd "$(dirname "$0")" && pwd)
self=$here/$(basename "$0")
out=gpu.json
quick=
adapter=
while [ $# -gt 0 ]; do
    case $1 in
        --quick) quick=yes ;;
        --out | --adapter)
            [ $# -ge 2 ] || { echo "gpu.sh: $1 wants a value" >&2; exit 2; }
            if [ "$1" = --out ]; then out=$2; else adapter=$2; fi
            shift
            ;;
        -h | --help)
            sed -n '2,/^set -u/s/^#$//p; 2,/^set -u/s/^# //p' "$0"
            exit 0
            ;;
        *)
            echo "gpu.sh: unknown option $1 (--quick, --out FILE, --adapter NAME)" >&2
            exit 2
            ;;
    esac
    shift
done

if [ -z "${MODALIGN:-}" ]; then
    MODALIGN=$(command -v modalign || echo "$here/../target/release/modalign")
fi
case $MODALIGN in
    */*) MODALIGN=$(cd "$(dirname "$MODALIGN")" 2>/dev/null && pwd)/$(basename "$MODALIGN") ;;
esac
if ! "$MODALIGN" --version >/dev/null 2>&1; then
    echo "gpu.sh: $MODALIGN does not run; build it (cargo build --release) or name it: MODALIGN=path" >&2
    exit 2
fi
if [ -n "$adapter" ]; then
    WGPU_ADAPTER_NAME=$adapter
    export WGPU_ADAPTER_NAME
fi
python=${PYTHON:-python3}
"$python" -c 'import json' >/dev/null 2>&1 || python=

work=$(mktemp -d "${TMPDIR:-/tmp}/modalign-gpu.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
began=$(date +%s)
if [ -n "$quick" ]; then total=120; else total=480; fi
failed=0

say() { printf '%s\n' "$*" >&2; }

# Text as what stands between the quotes of a JSON string.
escape() {
    tr '\t\n\r' '   ' | tr -d '\000-\037' | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/ *$//'
}

# What a file says, if it is one JSON object.
object() {
    [ -s "$1" ] || return 1
    if [ -n "$python" ]; then
        "$python" -c 'import json, sys; json.load(open(sys.argv[1], encoding="utf-8"))' "$1" 2>/dev/null
    else
        [ "$(head -c 1 "$1")" = "{" ] && [ "$(tail -c 2 "$1" | tr -d '\n')" = "}" ]
    fi
}

# part NAME LIMIT COMMAND...: runs a command within so many seconds; what it prints, or leaves in
# $work/NAME.json, is the part's result.
part() {
    part_name=$1 part_limit=$2
    shift 2
    case " ${ONLY:-$part_name} " in *" $part_name "*) ;; *) return 0 ;; esac
    part_left=$((total - $(date +%s) + began))
    [ "$part_left" -lt "$part_limit" ] && part_limit=$part_left
    [ -n "${LIMIT:-}" ] && [ "$LIMIT" -lt "$part_limit" ] && part_limit=$LIMIT
    part_start=$(date +%s)
    if [ "$part_limit" -le 0 ]; then
        part_status=124
        : >"$work/$part_name.out"
        echo "no time was left" >"$work/$part_name.err"
    elif command -v timeout >/dev/null 2>&1; then
        timeout -k 5 "$part_limit" "$@" >"$work/$part_name.out" 2>"$work/$part_name.err"
        part_status=$?
    else
        "$@" >"$work/$part_name.out" 2>"$work/$part_name.err"
        part_status=$?
    fi
    part_seconds=$(($(date +%s) - part_start))
    case $part_status in
        0) part_said=ok ;;
        124 | 137) part_said="stopped after its $part_limit s" ;;
        *) part_said="failed ($part_status): $(tail -n 1 "$work/$part_name.err")" ;;
    esac
    say "$(printf '%-16s %4s s  %s' "$part_name" "$part_seconds" "$part_said")"
    [ "$part_status" -eq 0 ] || failed=$((failed + 1))
    [ -f "$work/$part_name.json" ] || cp "$work/$part_name.out" "$work/$part_name.json"
    {
        [ -s "$work/parts" ] && printf ',\n'
        printf '"%s": {"status": %s, "seconds": %s, "stderr": "%s", "result": ' "$part_name" \
            "$part_status" "$part_seconds" "$(tail -n 5 "$work/$part_name.err" | escape)"
        if object "$work/$part_name.json"; then cat "$work/$part_name.json"; else printf null; fi
        printf '}'
    } >>"$work/entry"
    cat "$work/entry" >>"$work/parts"
    rm -f "$work/entry"
    write
    return "$part_status"
}

# The file as far as it is known.
write() {
    {
        printf '{"format": 1, "date": "%s", "quick": %s, ' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
            "$([ -n "$quick" ] && echo true || echo false)"
        printf '"modalign": "%s", "system": "%s", "seconds": %s, "parts": {\n' \
            "$("$MODALIGN" --version | escape)" "$(uname -srm | escape)" $(($(date +%s) - began))
        [ -f "$work/parts" ] && cat "$work/parts"
        printf '\n}}\n'
    } >"$out.part" && mv "$out.part" "$out"
}

if [ -n "$quick" ]; then
    rows=${ROWS:-512} seconds=0.1 rounds=2 steps=5 flag=--quick
    selftest=40 compare=45 profile=20 epoch=20 bench=30
else
    rows=${ROWS:-2048} seconds=0.3 rounds=3 steps=20 flag=
    selftest=150 compare=170 profile=40 epoch=60 bench=150
fi
say "gpu.sh: $("$MODALIGN" --version), at most $total s, into $out"
export MODALIGN work rows
part devices 30 "$MODALIGN" devices --json
# shellcheck disable=SC2086 # no flag, no word
part selftest $selftest "$MODALIGN" selftest --json --quiet $flag
part sets 90 sh "$self" --inner sets
part profile_default $profile "$MODALIGN" profile --data "$work/default.safetensors" --json --quiet \
    --steps "$steps"
part predict_default 20 "$MODALIGN" profile --data "$work/default.safetensors" --predict --json
part profile_bert $profile "$MODALIGN" profile --data "$work/text.safetensors" --bert "$work/bert" \
    --set model.modalities=T --json --quiet --steps "$steps"
part predict_bert 20 "$MODALIGN" profile --data "$work/text.safetensors" --bert "$work/bert" \
    --set model.modalities=T --predict --json
part epoch $epoch sh "$self" --inner epochs
if [ -n "$python" ]; then
    part compare $compare "$python" "$here/gpu_torch.py" --modalign "$MODALIGN" \
        --out "$work/compare.json" --seconds "$seconds" --rounds "$rounds" --limit $((compare - 10)) \
        --bert "$work/profile_bert.json" --epoch "$work/epoch.json"
else
    part compare $compare "$MODALIGN" bench step matmul --json --quiet --seconds "$seconds"
fi
part bench $bench "$MODALIGN" bench --quiet --seconds "$seconds" --save "$work/bench.json"

say ""
if [ -n "$python" ] && [ -f "$out" ]; then
    "$python" "$here/gpu_torch.py" --table "$out"
elif [ -f "$work/bench.out" ]; then
    cat "$work/bench.out"
fi
say ""
say "gpu.sh: $out, $(($(date +%s) - began)) s, $failed parts failed; please send it: see README.md"
[ "$failed" -eq 0 ]
