#!/bin/bash
# packages.sh - what an image's builder needs: to compile, and to bring into the image (drivers of RDMA devices, certificates of
# authorities), which the libraries only recommend.
set -euo pipefail
cd "$(dirname "$0")/../.."

tools/deps.sh build
export DEBIAN_FRONTEND=noninteractive
apt-get install -qy --no-install-recommends ca-certificates ibverbs-providers python3
