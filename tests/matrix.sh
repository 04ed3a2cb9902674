#!/bin/sh
# One training and all kernels on every Vulkan driver that can be had here: sh tests/matrix.sh [FOLDER]. Beside
# the system's own that is the distribution's other Mesa, fetched to FOLDER and not installed (Debian, Ubuntu),
# and SwiftShader, which Chromium brings. MODALIGN_DRIVERS names others (files of Vulkan's loader, with colons
# between). How far two drivers may be apart is in tests/command/matrix.rs.
set -eu
cd "$(dirname "$0")/.."
folder=${1:-target/matrix}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
. ./.ci/driver.sh

drivers=${MODALIGN_DRIVERS:-}
add() { drivers=${drivers:+$drivers:}$1; }

# The versions that the package's archives have, the one that is installed aside.
here=$(dpkg-query -W -f '${Version}' mesa-vulkan-drivers 2>/dev/null || true)
for version in $(apt-cache madison mesa-vulkan-drivers 2>/dev/null | awk -F'|' '{ gsub(/ /, "", $2); print $2 }' | sort -u); do
    [ "$version" != "$here" ] || continue
    place=$folder/mesa-$version
    if [ ! -d "$place" ]; then
        (cd "$folder" && apt-get download -q "mesa-vulkan-drivers=$version" >&2) || continue
        dpkg -x "$folder"/mesa-vulkan-drivers_*.deb "$place"
        rm -f "$folder"/mesa-vulkan-drivers_*.deb
    fi
    for described in "$place"/usr/share/vulkan/icd.d/lvp_icd*.json; do
        sed "s|\"\(/usr/lib[^\"]*\)\"|\"$place\1\"|" "$described" >"$place/driver.json"
    done
    add "$place/driver.json"
done
echo "== the system's driver, SwiftShader where Chromium is, and: ${drivers:-no other}" >&2
MODALIGN_DRIVERS=$drivers cargo test --quiet --test command matrix:: -- --nocapture

cargo build --quiet --release
swift=/usr/lib/chromium/vk_swiftshader_icd.json
[ ! -e "$swift" ] || add "$swift"
old=$IFS
IFS=:
set -- "" $drivers
IFS=$old
for driver; do
    echo "== selftest on ${driver:-the driver of the system}" >&2
    if [ -z "$driver" ]; then
        target/release/modalign selftest | tail -n 1
    else
        VK_DRIVER_FILES=$driver target/release/modalign selftest | tail -n 1
    fi
done
