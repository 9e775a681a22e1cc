#!/bin/sh
# Makes sure that there is a GPU adapter to run on: where the Vulkan loader finds no driver on a Debian-like system, installs
# Mesa's software Vulkan and says so. Elsewhere it says what is missing and lets dau's own message explain.
set -eu

has_driver() {
    # Drivers announce themselves by a JSON file in one of the loader's folders; the loader itself is libvulkan.so.1.
    ldconfig -p 2>/dev/null | grep -q 'libvulkan\.so\.1' || return 1
    [ -z "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] || return 0
    for folder in /usr/share/vulkan/icd.d /etc/vulkan/icd.d /usr/local/share/vulkan/icd.d /usr/local/etc/vulkan/icd.d \
        "${XDG_DATA_HOME:-${HOME:-/root}/.local/share}/vulkan/icd.d"; do
        for file in "$folder"/*.json; do
            [ -e "$file" ] && return 0
        done
    done
    return 1
}

[ "$(uname -s)" = Linux ] || exit 0
if has_driver; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "No Vulkan driver found. Install one for your GPU, or Mesa's software Vulkan (often called mesa-vulkan-drivers)." >&2
    exit 0
fi
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
echo "No Vulkan driver found: installing software Vulkan (apt-get install mesa-vulkan-drivers libvulkan1)." >&2
$sudo apt-get update -qq
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq mesa-vulkan-drivers libvulkan1 >/dev/null
