#!/bin/sh
# Sees to it that there are spirv-val and glslangValidator, to which a test gives every translated
# shader; installs them (6 MB) where they are missing and that takes no question: as root, where there
# is apt. Source it. It never fails: without them that test says that it is skipped. Set
# MODALIGN_VALIDATORS, also to nothing, and nothing is installed.

validators_say() { printf 'validators: %s\n' "$*" >&2; }

validators_main() {
    [ -z "${MODALIGN_VALIDATORS+set}" ] || return 0
    command -v spirv-val >/dev/null 2>&1 && command -v glslangValidator >/dev/null 2>&1 && return 0
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
        validators_say "installing spirv-tools and glslang-tools"
        apt-get update -qq >&2 || validators_say "apt-get update failed; trying with what is known"
        env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
            spirv-tools glslang-tools >&2 || validators_say "they could not be installed"
    else
        validators_say "going on without spirv-val and glslangValidator"
    fi
}

validators_main
