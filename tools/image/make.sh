#!/bin/bash
# make.sh - builds the image with the tool at hand; `make image` runs it. From the environment:
#
#   IMAGE_TOOL    docker, podman or buildah, with flags of its own ("buildah --root DIR"); default: the first of them that is there
#   IMAGE_FLAGS   more flags of its build ("--pull-never")
#   IMAGE         name and tag; default proa:VERSION
#   ARCH          amd64 or arm64; default: this machine's
#   GPU_TARGETS, CUDA_VERSION, BASE   arguments of the Containerfile
#   CUDA_TOOLKIT  folder of a CUDA toolkit of this machine, which the builder sees instead of fetching NVIDIA's image; not with docker, whose
#                 builder is shown no folders
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
    echo "make image: $*" >&2
    exit 1
}

case $(uname -m) in
    x86_64) own=amd64 ;;
    aarch64) own=arm64 ;;
    *) fail "this machine is a $(uname -m): images are built on x86_64 and aarch64" ;;
esac

read -ra tool <<<"${IMAGE_TOOL:-}"
for name in docker podman buildah; do
    [ ${#tool[@]} -gt 0 ] || ! command -v "$name" >/dev/null || tool=("$name")
done
[ ${#tool[@]} -gt 0 ] || fail "none of docker, podman and buildah is installed: \`apt-get install buildah\` suffices"
command -v "${tool[0]}" >/dev/null || fail "IMAGE_TOOL is \"${tool[*]}\", and there is no ${tool[0]}"

arch=${ARCH:-$own}
case $arch in
    amd64 | arm64) ;;
    *) fail "ARCH is \"$arch\": give amd64 or arm64" ;;
esac
base=${BASE:-}
toolkit=
if [ -n "${CUDA_TOOLKIT:-}" ]; then
    [ -x "$CUDA_TOOLKIT/bin/nvcc" ] || fail "CUDA_TOOLKIT is \"$CUDA_TOOLKIT\", and there is no bin/nvcc in it: give the folder of a CUDA toolkit, such as /usr/local/cuda"
    [ -n "${GPU_TARGETS:-}" ] || fail "CUDA_TOOLKIT compiles for GPU_TARGETS, which is empty: give GPU_TARGETS=90a too"
    toolkit=$(cd "$CUDA_TOOLKIT" && pwd -P)
    base=${base:-docker.io/library/debian:bookworm-slim}
fi
version=$(sed -n "s/^ *version: '\(.*\)',/\1/p" meson.build)
image=${IMAGE:-proa:$version}
revision=$(git describe --always --dirty 2>/dev/null || echo unknown)
arguments=(--platform "linux/$arch" --tag "$image" --build-arg "REVISION=$revision")
for name in GPU_TARGETS CUDA_VERSION; do
    [ -z "${!name:-}" ] || arguments+=(--build-arg "$name=${!name}")
done
[ -z "$base" ] || arguments+=(--build-arg "BASE=$base")

case ${tool[0]##*/} in
    docker)
        [ -z "$toolkit" ] || fail "docker's builder is shown no folders: build with podman or buildah, or leave CUDA_TOOLKIT out for NVIDIA's image"
        export DOCKER_BUILDKIT=1
        ;;
    podman | buildah)
        # The health check is part of Docker's format alone. BuildKit knows the builder's platform; older ones of these do not.
        arguments+=(--format docker --layers --build-arg "BUILDPLATFORM=linux/$own" --build-arg "BUILDARCH=$own" --build-arg "TARGETARCH=$arch")
        [ -z "$toolkit" ] || arguments+=(--volume "$toolkit:/usr/local/cuda:ro")
        ;;
    *) fail "IMAGE_TOOL is \"${tool[*]}\": give docker, podman or buildah" ;;
esac
read -ra flags <<<"${IMAGE_FLAGS:-}"
set -x
exec "${tool[@]}" build "${arguments[@]}" ${flags[@]+"${flags[@]}"} --file Containerfile .
