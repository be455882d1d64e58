#!/bin/bash
# gpu_pack.sh FOLDER [BUILD [TEST_DATA]] - packs the GPU programs of a build, with the libraries that they need, for a machine that has a GPU and none of
# Debian's libraries. There: `make gpu-check` in the folder; logs and results come into $OUT (default: ./out).
set -euo pipefail
folder=${1:?usage: gpu_pack.sh FOLDER [BUILD [TEST_DATA]]} build=${2:-build} data=${3:-${PROA_TEST_DATA:-../shared}}
root=$(cd "$(dirname "$0")/.." && pwd)

rm -rf "$folder"
mkdir -p "$folder/bin" "$folder/lib"
programs=("$build/proa" "$build"/tests/gpu/gpu_*)
for program in "${programs[@]}"; do
    [ -f "$program" ] && [ -x "$program" ] || continue
    strip -o "$folder/bin/${program##*/}" "$program"
    # the C library and what belongs to it are the machine's own
    ldd "$program" | awk '$3 ~ /^\// && $3 !~ /\/(libc|libm|libdl|librt|libpthread|ld-linux[^\/]*)\.so/ { print $3 }' |
        while read -r library; do cp -nL "$library" "$folder/lib/"; done
done
mkdir -p "$folder/bench" "$folder/models" "$folder/golden"
cp -r "$root/bench/deepseek-r1" "$folder/bench/"
cp -r "$root/models/tiny-r1" "$folder/models/"
if [ -d "$data/golden" ]; then
    cp -r "$data"/golden/*/ "$folder/golden/"
else
    echo "$data has no golden checkpoints: the pack goes without"
fi
cp "$root/tools/gpu_check.mk" "$folder/Makefile"
cp "$root/tools/gpu_model.sh" "$root/tools/gpu_precompile.sh" "$root/tools/gpu_client.py" "$folder/"
echo "$folder: $(ls "$folder/bin" | wc -l) programs, $(du -sh "$folder" | cut -f1)"
