#!/bin/bash
# packages.sh BUILDARCH TARGETARCH - what an image's builder needs: to compile, and to bring into the image (drivers of RDMA devices, certificates of
# authorities), which the libraries only recommend. For another architecture, its compiler, its libraries in /sysroot, and qemu, by which the
# build asks the program for its manual.
set -euo pipefail
cd "$(dirname "$0")/../.."

tools/deps.sh build # which looks for new lists of packages only when something is missing
apt-get update -q
export DEBIAN_FRONTEND=noninteractive
cross=
[ "${1:-}" = "${2:-}" ] || cross="gcc-aarch64-linux-gnu qemu-user-static"
apt-get install -qy --no-install-recommends ca-certificates ibverbs-providers python3 $cross
[ -z "$cross" ] || tools/cross/sysroot.sh /sysroot
