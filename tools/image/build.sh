#!/bin/bash
# build.sh BUILDARCH TARGETARCH GPU_TARGETS OUT - compiles the program for an image's architecture (amd64, arm64) and lays out what the image
# holds: OUT/program and OUT/libraries, apart because the latter change rarely. In the Containerfile's builder, from the sources' folder.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

own=${1:-$(dpkg --print-architecture)}
target=${2:-$own}
gpu_targets=$3
out=$4
sysroot=/
triplet=$(gcc -print-multiarch)
options=(--prefix=/usr -Dtests=false)

if [ "$own-$target" = amd64-arm64 ]; then
    sysroot=/sysroot/root
    triplet=aarch64-linux-gnu
    options+=(--cross-file /sysroot/sysroot.ini --cross-file tools/cross/aarch64-linux-gnu.ini)
    [ -z "$gpu_targets" ] || fail "GPU kernels are not cross-compiled: build the image for $target on a machine of that architecture"
elif [ "$target" != "$own" ]; then
    fail "an image for $target is not built on $own, only on a machine of that architecture"
fi
if [ -n "$gpu_targets" ]; then
    options+=(-Dcuda=enabled "-Dgpu_targets=${gpu_targets// /,}")
else
    options+=(-Dcuda=disabled)
fi

meson setup /build "${options[@]}"
DESTDIR=$out/program meson install -C /build --quiet
rm -r "$out/program/usr/share/man"
install -Dm644 LICENSE "$out/program/usr/share/doc/proa/copyright"
if [ -n "$gpu_targets" ]; then # the CUDA runtime is in the program: its licence, where packages, archives and wheels have it
    for licence in /usr/share/doc/cuda-cudart-dev-*/copyright /usr/local/cuda/{EULA.txt,dist-info/nvidia_cuda_runtime-*/licenses/*}; do
        [ ! -f "$licence" ] || install -Dm644 "$licence" "$out/program/usr/share/doc/cuda-cudart/copyright"
    done
    [ -f "$out/program/usr/share/doc/cuda-cudart/copyright" ] || fail "the toolkit's licence is nowhere: its EULA.txt belongs into /usr/local/cuda"
fi
python3 tools/image/libraries.py --sysroot "$sysroot" --triplet "$triplet" "$out/program/usr/bin/proa" "$out/libraries"
du -sh "$out"/*
