#!/bin/bash
# gpu_pack.sh FOLDER [BUILD [TEST_DATA]] - packs the GPU programs of a build, with the libraries that they need, for a machine that has a GPU and none of
# Debian's libraries. There: `make gpu-check` in the folder; logs and results come into $OUT (default: ./out).
# PYTHONS="3.12": the versions of Python that gpu-http may meet there (default: 3.11 3.12 3.13); each takes some 6 MB, 2 of them compressed.
set -euo pipefail
folder=${1:?usage: gpu_pack.sh FOLDER [BUILD [TEST_DATA]]} build=${2:-build} data=${3:-${PROA_TEST_DATA:-../shared}}
root=$(cd "$(dirname "$0")/.." && pwd)

rm -rf "$folder"
mkdir -p "$folder/bin" "$folder/lib"
programs=("$build/proa" "$build"/tests/gpu/gpu_* "$build/tests/fake/fake_server")
strace=$(command -v strace) && programs+=("$strace") || echo "no strace is here: the pack goes without, and gpu-model cannot trace unless there is one there"
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
cp "$root/tools/gpu_model.sh" "$root/tools/gpu_precompile.sh" "$root/tools/gpu_http.sh" "$root/tools/gpu_compilers.sh" "$root/tools/gpu_client.py" "$folder/"

# The system tests, and what they import in the suites that gpu_http.sh runs: site/any, and what is compiled for each version of Python that may be
# there in site/cp312 and its like. A wheel is a zip file; unpacked, a pack can be compressed better.
mkdir -p "$folder/tests/system" "$folder/tests/data" "$folder/site"
cp "$root"/tests/system/*.{py,ini} "$folder/tests/system/"
cp "$root/tests/data/tiny-r1-reference.jsonl" "$folder/tests/data/"
imports='pytest|iniconfig|packaging|pluggy|pygments|httpx|httpx2|httpcore|httpcore2|h11|anyio|sniffio|idna|certifi|truststore|openai|pydantic|pydantic_core|jiter|annotated-types|typing-inspection|typing_extensions'
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
for version in ${PYTHONS:-3.11 3.12 3.13}; do
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --implementation cp --python-version "$version" \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --dest "$wheels" \
        --requirement <(grep -iE "^($imports)==" "$root/tests/system/requirements.txt") || {
        echo "pip could not fetch wheels (above): the pack goes without, and 'make gpu-http' cannot run there"
        rm -rf "$folder/site" "$wheels"/*
        break
    }
done
for wheel in "$wheels"/*.whl; do
    [ -f "$wheel" ] || continue
    case $wheel in
    *-none-any.whl | *-abi3-*) tag=any ;;
    *-cp[0-9]*-cp[0-9]*-*) tag=$(sed 's/.*-\(cp[0-9]*\)-cp[0-9]*-.*/\1/' <<<"$wheel") ;;
    *) echo "${wheel##*/}: for which Python is it?" >&2 && exit 1 ;;
    esac
    python3 -m zipfile -e "$wheel" "$folder/site/$tag"
done
echo "$folder: $(ls "$folder/bin" | wc -l) programs, $(du -sh "$folder" | cut -f1)"
