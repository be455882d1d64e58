#!/bin/bash
# gpu_precompile.sh PROA OUT - `proa precompile` on a GPU, in a folder that gpu_pack.sh made: every kernel loads with the driver's compiler turned
# off; tiles are measured for one rank's share of DeepSeek-R1 (a decode and a prefill worker's flags) and for tiny-r1, whose answers with measured
# tiles are those without; steps of the slice with the model's tiles and with the measured ones. Logs and results come into OUT; ends with 1 where something is wrong.
set -uo pipefail
proa=$1 out=$2 here=$(cd "$(dirname "$0")" && pwd)
cache=$out/kernel_cache
bad=0
mkdir -p "$out"
rm -rf "$cache"
export CUDA_DISABLE_PTX_JIT=1 CUDA_CACHE_DISABLE=1

fail() {
    echo "FAILED $*"
    bad=1
}

precompile() {
    local name=$1
    shift
    if timeout 900 "$proa" precompile --kernel-cache-dir "$cache" --json "$out/precompile_$name.json" "$@" \
        >"$out/precompile_$name.log" 2>&1; then
        echo "passed precompile $name: $(grep -m1 'nothing is left' "$out/precompile_$name.log"); $(tail -1 "$out/precompile_$name.log")"
    else
        fail "precompile $name: $(tail -1 "$out/precompile_$name.log")"
    fi
}

answers() {
    timeout 600 "$proa" eval --device cuda --model-path "$here/models/tiny-r1" --max-running-requests 64 --limit 200 \
        --kernel-cache-dir "$1" --output "$out/precompile_eval.jsonl" >"$out/precompile_eval.log" 2>&1 ||
        fail "eval: $(tail -1 "$out/precompile_eval.log")"
    sort "$out/precompile_eval.jsonl"
}

answers "$out/no_cache" >"$out/precompile_eval_without.jsonl"
precompile tiny --model-path "$here/models/tiny-r1" --max-running-requests 64
answers "$cache" >"$out/precompile_eval_with.jsonl"
grep -E "measured tiles are in use" "$out/precompile_eval.log" || fail "the cache of tiny-r1 is not in use"
cmp -s "$out/precompile_eval_without.jsonl" "$out/precompile_eval_with.jsonl" || fail "law 2: measured tiles move answers"
precompile decode --model-path "$here/bench/deepseek-r1" --disaggregation-mode decode --tp-size 32 --dp-size 32 --enable-dp-attention \
    --ep-num-redundant-experts 32 --max-running-requests 8192 --cuda-graph-bs 1,8,16,32,64,96,128,192,256
precompile prefill --model-path "$here/bench/deepseek-r1" --disaggregation-mode prefill --tp-size 32 --dp-size 32 --enable-dp-attention \
    --ep-num-redundant-experts 32 --chunked-prefill-size 131072 --context-length 8192 --disable-radix-cache
# One rank's share of a step, with the model's tiles and with the measured ones.
for shape in "decode 128 at 4096" "decode 256 at 4096" "prefill 4 x 4096"; do
    for dir in "$out/no_cache" "$cache"; do
        "$proa" bench slice --model-path "$here/bench/deepseek-r1" --shape "$shape" --kernel-cache-dir "$dir" \
            >"$out/precompile_slice.log" 2>&1 || fail "bench slice: $(tail -1 "$out/precompile_slice.log")"
        echo "$(basename "$dir") $(grep -m1 "ms a step" "$out/precompile_slice.log")"
    done
done
exit $bad
