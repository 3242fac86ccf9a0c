#!/bin/sh
# Makes sure that there is a Chromium, for the test of the chat page; installs a headless one if not.
set -eu
. "$(dirname "$0")/debian.sh"

found() {
    for name in chromium-headless-shell chromium chromium-browser google-chrome; do
        command -v "$name" >/dev/null && return 0
    done
    return 1
}

found && exit 0
install_packages 'a headless Chromium' chromium-headless-shell && found && exit 0
echo "setup: no Chromium, and it could not be installed;" \
    "as root: apt-get install chromium-headless-shell" >&2
[ -z "${CI:-}" ]
