#!/bin/sh
# Makes sure that there is a Chromium, for the test of the chat page; installs a headless one if not.
set -eu

found() {
    for name in chromium-headless-shell chromium chromium-browser google-chrome; do
        command -v "$name" >/dev/null && return 0
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
    echo "setup: installing a headless Chromium"
    apt="$root env DEBIAN_FRONTEND=noninteractive apt-get -qq"
    $apt install --yes --no-install-recommends chromium-headless-shell >/dev/null 2>&1 && return 0
    $apt update >/dev/null && $apt install --yes --no-install-recommends chromium-headless-shell >/dev/null
}

found && exit 0
install && found && exit 0
echo "setup: no Chromium, and it could not be installed;" \
    "as root: apt-get install chromium-headless-shell" >&2
[ -z "${CI:-}" ]
