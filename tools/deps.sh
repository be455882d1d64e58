#!/bin/bash
# deps.sh GROUP... - installs the Debian packages that the groups need and that are missing; says which.
set -euo pipefail

declare -A packages=(
    [build]="build-essential meson ninja-build pkg-config libcmocka-dev libcurl4-openssl-dev libevent-dev libhwloc-dev
             libjansson-dev libnats-dev libpcre2-dev libssl-dev libucx-dev libxxhash-dev"
    [test]="etcd-server iproute2 nats-server openssl python3 python3-venv shellcheck"
    [arm64]="gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static"
    [check]="clang clang-format clang-tidy git python3 universal-ctags"
)

missing=()
for group in "$@"; do
    for package in ${packages[$group]}; do
        dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing+=("$package")
    done
done
[ ${#missing[@]} -gt 0 ] || exit 0

echo "missing Debian packages: ${missing[*]}"
sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -q
$sudo apt-get install -qy --no-install-recommends "${missing[@]}"
