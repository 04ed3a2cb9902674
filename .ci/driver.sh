#!/bin/sh
# Sees to it that there is a Vulkan driver, installing Mesa's on Debian and Ubuntu where there is
# none. Source it or run it. DRIVER_DRY_RUN=1 prints the commands instead of running them;
# DRIVER_SKIP=1 does nothing, for a machine whose driver this script does not see.
#
# Mesa's own release decides how fast the software adapter is, so the distribution's backports are
# preferred where they are newer. They are fetched from the mirror that this machine already uses.

# Tests point these elsewhere.
driver_root=${DRIVER_ROOT:-}
driver_os_release=${driver_root}/etc/os-release
driver_apt=${driver_root}/etc/apt

driver_say() { printf 'driver: %s\n' "$*" >&2; }

# Runs a command as root, or prints it.
driver_do() {
    if [ -n "${DRIVER_DRY_RUN:-}" ]; then
        printf '%s\n' "$*"
    elif [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        driver_say "this takes root and there is no sudo; run as root: $*"
        return 1
    fi
}

# Whether the loader and the description of at least one driver are there.
driver_present() {
    driver_loader=
    for driver_file in "$driver_root"/usr/lib/libvulkan.so.1 "$driver_root"/usr/lib64/libvulkan.so.1 \
        "$driver_root"/usr/lib/*/libvulkan.so.1 "$driver_root"/usr/local/lib/libvulkan.so.1 \
        "$driver_root"/usr/local/lib/*/libvulkan.so.1 "$driver_root"/lib/*/libvulkan.so.1 \
        "$driver_root"/run/current-system/sw/lib/libvulkan.so.1; do
        [ -e "$driver_file" ] && driver_loader=$driver_file
    done
    if [ -z "$driver_loader" ] && [ -z "$driver_root" ]; then
        driver_loader=$({ ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null | grep 'libvulkan\.so\.1' || true)
    fi
    [ -n "$driver_loader" ] || return 1
    # The loader reads nothing else where one of these is set.
    driver_named=${VK_DRIVER_FILES:-${VK_ICD_FILENAMES:-}}
    if [ -n "$driver_named" ]; then
        driver_ifs=$IFS
        IFS=:
        for driver_file in $driver_named; do
            if [ -e "$driver_file" ]; then
                IFS=$driver_ifs
                return 0
            fi
        done
        IFS=$driver_ifs
        driver_say "VK_DRIVER_FILES or VK_ICD_FILENAMES names no file that exists"
        return 1
    fi
    for driver_file in "$driver_root"/usr/share/vulkan/icd.d/*.json "$driver_root"/etc/vulkan/icd.d/*.json \
        "$driver_root"/usr/local/share/vulkan/icd.d/*.json "$driver_root"/usr/local/etc/vulkan/icd.d/*.json \
        "$driver_root"/run/opengl-driver/share/vulkan/icd.d/*.json; do
        [ -e "$driver_file" ] && return 0
    done
    return 1
}

# A field of os-release.
driver_os() {
    sed -n "s/^$1=//p" "$driver_os_release" 2>/dev/null | tr -d '"' | head -n 1
}

# "URI SIGNED-BY" of the archive that holds the release $1, from either style of sources; SIGNED-BY
# is - where the file does not say.
driver_mirror() {
    for driver_file in "$driver_apt"/sources.list.d/*.sources; do
        [ -e "$driver_file" ] || continue
        awk -v suite="$1" '
            function give(  n, parts) {
                if (types ~ /(^| )deb( |$)/ && enabled != "no" && components ~ /(^| )main( |$)/ \
                    && index(" " suites " ", " " suite " ")) {
                    split(uris, parts, " ")
                    print parts[1], (key == "" ? "-" : key)
                    found = 1
                }
                types = uris = suites = components = key = enabled = ""
            }
            /^[ \t]*#/ { next }
            /^[ \t]*$/ { if (!found) give(); next }
            {
                name = tolower($1)
                value = $0
                sub(/^[^:]*:[ \t]*/, "", value)
                gsub(/[ \t]+/, " ", value)
                sub(/ $/, "", value)
                if (name == "types:") types = value
                else if (name == "uris:") uris = value
                else if (name == "suites:") suites = value
                else if (name == "components:") components = value
                else if (name == "signed-by:") key = value
                else if (name == "enabled:") enabled = tolower(value)
            }
            END { if (!found) give() }
        ' "$driver_file"
    done
    for driver_file in "$driver_apt"/sources.list "$driver_apt"/sources.list.d/*.list; do
        [ -e "$driver_file" ] || continue
        awk -v suite="$1" '
            $1 == "deb" {
                line = $0
                key = "-"
                if (match(line, /\[[^]]*\]/)) {
                    options = substr(line, RSTART + 1, RLENGTH - 2)
                    line = substr(line, 1, RSTART - 1) " " substr(line, RSTART + RLENGTH)
                    n = split(options, each, " ")
                    for (i = 1; i <= n; i++)
                        if (each[i] ~ /^signed-by=/) key = substr(each[i], 11)
                }
                n = split(line, word, " ")
                if (word[3] == suite)
                    for (i = 4; i <= n; i++)
                        if (word[i] == "main") { print word[2], key; exit }
            }
        ' "$driver_file"
    done
}

# The name of the release's backports, added to the sources first where they are not among them;
# nothing where there are none.
driver_backports() {
    driver_codename=$(driver_os VERSION_CODENAME)
    [ -n "$driver_codename" ] || return 0
    driver_suite=$driver_codename-backports
    if [ -n "$(driver_mirror "$driver_suite")" ]; then
        printf '%s\n' "$driver_suite"
        return 0
    fi
    driver_found=$(driver_mirror "$driver_codename" | head -n 1)
    [ -n "$driver_found" ] || return 0
    driver_uri=${driver_found%% *}
    driver_key=${driver_found#* }
    driver_line="deb $driver_uri $driver_suite main"
    [ "$driver_key" = - ] || driver_line="deb [signed-by=$driver_key] $driver_uri $driver_suite main"
    driver_list=$driver_apt/sources.list.d/modalign-backports.list
    driver_say "adding $driver_suite from $driver_uri, this machine's mirror ($driver_list)"
    if [ -n "${DRIVER_DRY_RUN:-}" ]; then
        driver_say "would write: $driver_line"
    else
        driver_temp=$(mktemp)
        printf '%s\n' "$driver_line" >"$driver_temp"
        driver_do install -m 644 "$driver_temp" "$driver_list" >&2
        driver_done=$?
        rm -f "$driver_temp"
        [ "$driver_done" -eq 0 ] || return 0
        # A mirror may not carry the suite; then everything stays as it was.
        if ! driver_do apt-get update -qq \
            -o Dir::Etc::sourcelist="$driver_list" -o Dir::Etc::sourceparts=- \
            -o APT::Get::List-Cleanup=0 >&2; then
            driver_say "the mirror has no $driver_suite; going on without it"
            driver_do rm -f "$driver_list" >&2
            return 0
        fi
    fi
    printf '%s\n' "$driver_suite"
}

# Whether the suite $1 has a newer Mesa than would be installed without it.
driver_newer() {
    [ -z "${DRIVER_DRY_RUN:-}" ] || return 0
    driver_versions=$(apt-cache madison mesa-vulkan-drivers 2>/dev/null)
    driver_new=$(printf '%s\n' "$driver_versions" | awk -F'|' -v s="$1/" 'index($3, s) { gsub(/ /, "", $2); print $2; exit }')
    driver_old=$(printf '%s\n' "$driver_versions" | awk -F'|' -v s="$1/" '!index($3, s) { gsub(/ /, "", $2); print $2; exit }')
    [ -n "$driver_new" ] && dpkg --compare-versions "$driver_new" gt "${driver_old:-0}"
}

driver_install() {
    driver_say "no Vulkan driver was found: installing libvulkan1 and mesa-vulkan-drivers"
    driver_do apt-get update -qq || driver_say "apt-get update failed; trying with what is known"
    driver_suite=$(driver_backports)
    # A dry run's commands are on stdout, the suite on the last line.
    driver_suite=$(printf '%s\n' "$driver_suite" | tail -n 1)
    if [ -n "$driver_suite" ] && driver_newer "$driver_suite"; then
        driver_say "taking the newer Mesa of $driver_suite"
        driver_do env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
            -t "$driver_suite" libvulkan1 mesa-vulkan-drivers && return 0
        driver_say "that failed; taking the release's own"
    fi
    driver_do env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        libvulkan1 mesa-vulkan-drivers
}

driver_main() {
    [ -z "${DRIVER_SKIP:-}" ] || return 0
    case ${DRIVER_UNAME:-$(uname -s)} in
        Linux) ;;
        # Metal and Direct3D 12 come with the system.
        *) return 0 ;;
    esac
    if driver_present; then
        return 0
    fi
    case " $(driver_os ID) $(driver_os ID_LIKE) " in
        *" debian "* | *" ubuntu "*)
            if command -v apt-get >/dev/null 2>&1; then
                driver_install || { driver_say "no driver could be installed"; return 1; }
                return 0
            fi
            ;;
    esac
    driver_say "no Vulkan driver was found. Install the loader and Mesa's drivers, then run this again:"
    driver_say "  Fedora:    dnf install vulkan-loader mesa-vulkan-drivers"
    driver_say "  Arch:      pacman -S vulkan-icd-loader vulkan-swrast   (or your GPU's vulkan-* package)"
    driver_say "  Alpine:    apk add vulkan-loader mesa-vulkan-swrast"
    driver_say "  openSUSE:  zypper install libvulkan1 Mesa-libVulkan-devel libvulkan_lvp"
    driver_say "  NVIDIA:    its own driver brings Vulkan"
    driver_say "(DRIVER_SKIP=1 goes on without looking)"
    return 1
}

driver_main
