# Sourced: `install_packages WHAT PACKAGE...` installs Debian packages, if that is possible here.

install_packages() {
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" -eq 0 ]; then
        root=
    elif sudo -n true 2>/dev/null; then
        root='sudo -n'
    else
        return 1
    fi
    echo "setup: installing $1"
    shift
    apt="$root env DEBIAN_FRONTEND=noninteractive apt-get -qq"
    $apt install --yes --no-install-recommends "$@" >/dev/null 2>&1 && return 0
    $apt update >/dev/null && $apt install --yes --no-install-recommends "$@" >/dev/null
}
