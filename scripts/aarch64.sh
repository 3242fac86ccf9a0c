#!/bin/sh
# Makes a folder $1 in which AArch64 Python runs edgec under emulation: qemu-user, the libraries and
# Python of this distribution for arm64, and the packages that a device installs. Idempotent.
# $2 is the Python that has pip.
set -eu
folder=$1 python=$2
root=$folder/root

fail() {
    echo "aarch64: $1" >&2
    exit 1
}

if ! command -v qemu-aarch64 >/dev/null && ! command -v qemu-aarch64-static >/dev/null; then
    command -v apt-get >/dev/null || fail "no qemu-aarch64 and no apt-get; install qemu-user"
    if [ "$(id -u)" -eq 0 ]; then sudo=; else sudo='sudo -n'; fi
    apt="$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq"
    $apt install --yes --no-install-recommends qemu-user >/dev/null 2>&1 ||
        { $apt update >/dev/null && $apt install --yes --no-install-recommends qemu-user >/dev/null; } ||
        fail "cannot install qemu-user; as root: apt-get install qemu-user"
fi
[ -e "$folder/.ready" ] && exit 0
command -v apt-get >/dev/null || fail "arm64 libraries come from apt, and there is no apt-get"
rm -rf "$folder"
mkdir -p "$folder/apt/lists/partial" "$folder/apt/cache/archives/partial" "$folder/debs" "$root"
folder=$(cd "$folder" && pwd)

# A state of its own: the system's architectures and package lists stay as they are.
arm() {
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 \
        -o Dir::State::Lists="$folder/apt/lists" -o Dir::Cache="$folder/apt/cache" \
        -o APT::Sandbox::User= "$@"
}
arm update >"$folder/apt.log" 2>&1 || { cat "$folder/apt.log" >&2; fail "no package lists for arm64"; }
minor=$(apt-cache -o APT::Architecture=arm64 -o APT::Architectures=arm64 \
    -o Dir::State::Lists="$folder/apt/lists" -o Dir::Cache="$folder/apt/cache" \
    show python3-minimal | sed -n 's/^\(Pre-\)*Depends:.*python\(3\.[0-9]*\)-minimal.*/\2/p' | head -n 1)
[ -n "$minor" ] || fail "cannot tell the distribution's Python version"
(cd "$folder/debs" && arm download libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libffi8 libbz2-1.0 \
    liblzma5 "python$minor-minimal" "libpython$minor-minimal" "libpython$minor-stdlib") \
    >"$folder/apt.log" 2>&1 || { cat "$folder/apt.log" >&2; fail "cannot download arm64 packages"; }
for deb in "$folder"/debs/*.deb; do dpkg -x "$deb" "$root"; done
# Distributions with a merged /usr expect these links; packages of others have the folders.
for name in lib bin; do [ -e "$root/$name" ] || ln -s "usr/$name" "$root/$name"; done
ln -sf "python$minor" "$root/usr/bin/python3"

iree=$("$python" -c 'from importlib.metadata import version; print(version("iree-base-runtime"))')
"$python" -m pip install --quiet --quiet --disable-pip-version-check --target "$folder/site" \
    --only-binary :all: --no-deps --python-version "$minor" --implementation cp \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 \
    --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    "iree-base-runtime==$iree" ml_dtypes numpy tokenizers jinja2 \
    markupsafe ||
    fail "cannot download the AArch64 wheels"
rm -rf "$folder/apt" "$folder/debs" "$folder/apt.log"
touch "$folder/.ready"
