#!/bin/bash
# sysroot.sh DIR - makes DIR/root from Debian's arm64 packages: headers and libraries of everything that Proa links, and the C library.
#
# The machine's own packages and its list of architectures stay as they are: apt works on a state of its own under DIR, from the same
# sources, as if arm64 were the only architecture and nothing were installed. No root is needed. Packages are unpacked, never
# configured. Finished means DIR/complete; remove DIR to make it anew.
set -euo pipefail

[ $# = 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
[ ! -e "$1/complete" ] || exit 0
for tool in apt-get dpkg-deb; do
    command -v "$tool" >/dev/null || { echo "$0: $tool is missing: this needs Debian or a relative of it" >&2; exit 1; }
done
packages=(libc6-dev libcmocka-dev libcurl4-openssl-dev libevent-dev libgcc-12-dev libhwloc-dev libjansson-dev libnats-dev libpcre2-dev
          libssl-dev libucx-dev libxxhash-dev)

rm -rf "$1"
mkdir -p "$1"/{root,apt/state/lists/partial,apt/cache/archives/partial}
dir=$(cd "$1" && pwd)
: > "$dir/apt/status"
cat > "$dir/apt/conf" <<END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "";
Dir::State "$dir/apt/state";
Dir::State::status "$dir/apt/status";
Dir::Cache "$dir/apt/cache";
Dir::Log "$dir/apt";
Acquire::Languages "none";
Debug::NoLocking "true";
END
export APT_CONFIG="$dir/apt/conf" DEBIAN_FRONTEND=noninteractive

apt-get update -q
apt-get install -qy --download-only "${packages[@]}"
for package in "$dir"/apt/cache/archives/*.deb; do
    dpkg-deb --extract "$package" "$dir/root"
done

# Links that begin with / would lead out of the sysroot.
find "$dir/root" -type l -lname '/*' -printf '%P %l\n' | while read -r link target; do
    ln -sfrn "$dir/root$target" "$dir/root/$link"
done
cat > "$dir/sysroot.ini" <<END
# Made by tools/cross/sysroot.sh; goes before tools/cross/aarch64-linux-gnu.ini.
[constants]
sysroot = '$dir/root'
END
rm -r "$dir/apt/cache" "$dir/apt/state"
touch "$dir/complete"
