#!/bin/sh
# Sees to it that MODALIGN_BROWSER names a Chromium, which the test of reports drives; installs
# Debian's where it is missing and that takes no question: as root, where there is apt. Source it.
# It never fails: without a browser that test says that it is skipped. Set MODALIGN_BROWSER, also to
# nothing, and nothing is looked for.

browser_say() { printf 'browser: %s\n' "$*" >&2; }

# Prints the path of a Chromium.
browser_find() {
    for browser_name in chromium chromium-browser google-chrome-stable google-chrome; do
        command -v "$browser_name" 2>/dev/null && return 0
    done
    return 1
}

browser_main() {
    [ -z "${MODALIGN_BROWSER+set}" ] || return 0
    if ! browser_path=$(browser_find); then
        # Ubuntu's package of that name is a snap, which needs a running system.
        if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1 \
            && grep -q '^ID=debian' /etc/os-release 2>/dev/null; then
            browser_say "no Chromium was found: installing Debian's"
            apt-get update -qq >&2 || browser_say "apt-get update failed; trying with what is known"
            env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
                chromium >&2 || browser_say "chromium could not be installed"
        fi
        browser_path=$(browser_find) || {
            browser_say "going on without a browser; MODALIGN_BROWSER can name a Chromium"
            return 0
        }
    fi
    export MODALIGN_BROWSER="$browser_path"
}

browser_main
