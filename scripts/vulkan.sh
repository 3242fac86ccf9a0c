#!/bin/sh
# Makes sure that there is a Vulkan loader and a driver; installs Mesa's software driver if not.
set -eu

found() {
    { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep -q 'libvulkan\.so\.1' || return 1
    [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] && return 0
    for driver in /usr/share/vulkan/icd.d/*.json /usr/local/share/vulkan/icd.d/*.json \
        /etc/vulkan/icd.d/*.json; do
        [ -e "$driver" ] && return 0
    done
    return 1
}

install() {
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" -eq 0 ]; then
        root=
    elif sudo -n true 2>/dev/null; then
        root='sudo -n'
    else
        return 1
    fi
    echo "setup: installing Mesa's software Vulkan driver"
    packages='libvulkan1 mesa-vulkan-drivers'
    apt="$root env DEBIAN_FRONTEND=noninteractive apt-get -qq"
    $apt install --yes --no-install-recommends $packages >/dev/null 2>&1 && return 0
    $apt update >/dev/null && $apt install --yes --no-install-recommends $packages >/dev/null
}

found && exit 0
install && found && exit 0
echo "setup: no Vulkan driver, and it could not be installed;" \
    "as root: apt-get install libvulkan1 mesa-vulkan-drivers" >&2
[ -z "${CI:-}" ]
