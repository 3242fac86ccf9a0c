#!/bin/sh
# Makes sure that there is a Vulkan loader and a driver; installs Mesa's software driver if not.
set -eu
. "$(dirname "$0")/debian.sh"

found() {
    { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep -q 'libvulkan\.so\.1' || return 1
    [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] && return 0
    for driver in /usr/share/vulkan/icd.d/*.json /usr/local/share/vulkan/icd.d/*.json \
        /etc/vulkan/icd.d/*.json; do
        [ -e "$driver" ] && return 0
    done
    return 1
}

found && exit 0
install_packages "Mesa's software Vulkan driver" libvulkan1 mesa-vulkan-drivers && found && exit 0
echo "setup: no Vulkan driver, and it could not be installed;" \
    "as root: apt-get install libvulkan1 mesa-vulkan-drivers" >&2
[ -z "${CI:-}" ]
