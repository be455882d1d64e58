#!/bin/bash
# gpu_model.sh PROA OUT - whole models on a GPU, in a folder that gpu_pack.sh made: golden checkpoints against their references, tiny-r1's
# answers, law 2 through the engine, and one rank's share of DeepSeek-R1 behind HTTP: that its start opens no compiler, from exec to the first
# token, then requests of all lengths with cancellations, memory before and after. Logs and results come into OUT; ends with 1 where something is wrong.
set -uo pipefail
proa=$1 out=$2 here=$(cd "$(dirname "$0")" && pwd)
bad=0
server=
mkdir -p "$out"

fail() {
    echo "FAILED $*"
    bad=1
}

golden_with() {
    local folder=$1 cache=$2 name
    name=$(basename "$folder")_$cache
    if timeout 300 "$proa" logits --device cuda --model-path "$folder" --input "$folder/expected.safetensors" \
        --prefix 32 --generate 0 --compare --kv-cache-dtype "$cache" >"$out/golden_$name.log" 2>&1; then
        echo "passed golden $name: $(grep -m1 median "$out/golden_$name.log")"
    else
        fail "golden $name: $(tail -1 "$out/golden_$name.log")"
    fi
}

golden() {
    for folder in "$here"/golden/*/; do
        for cache in bf16 fp8_e4m3; do
            golden_with "$folder" "$cache"
        done
    done
}

# Answers do not show what ran beside them, how prompts were cut, or whether there was a graph: those of one KV cache are all alike. (Of logprobs
# too, so say the soak below and test_determinism.)
answers() {
    local cache name flags want
    while read -r cache name flags; do
        name=${name}_$cache
        want=$out/eval_$cache.sum
        # shellcheck disable=SC2086 # flags are words
        if ! timeout 600 "$proa" eval --model-path "$here/models/tiny-r1" --output "$out/eval_$name.jsonl" --kv-cache-dtype "$cache" $flags \
            >"$out/eval_$name.log" 2>&1; then
            fail "eval $name: $(tail -1 "$out/eval_$name.log")"
            continue
        fi
        echo "eval $name: $(tail -1 "$out/eval_$name.log")"
        case $name in
        cpu_*) ;;
        graphs_*) sort "$out/eval_$name.jsonl" | sha256sum >"$want" ;;
        *) sort "$out/eval_$name.jsonl" | sha256sum | cmp -s - "$want" || fail "law 2: eval $name differs from graphs_$cache" ;;
        esac
    done <<'RUNS'
bf16 cpu --device cpu
bf16 graphs --device cuda --max-running-requests 256
bf16 alone --device cuda --max-running-requests 1 --limit 0
bf16 plain --device cuda --max-running-requests 256 --disable-cuda-graph
bf16 chunks --device cuda --max-running-requests 33 --chunked-prefill-size 7
bf16 padded --device cuda --max-running-requests 64 --cuda-graph-bs 64
bf16 scarce --device cuda --max-running-requests 64 --max-total-tokens 8192
fp8_e4m3 cpu --device cpu
fp8_e4m3 graphs --device cuda --max-running-requests 256
fp8_e4m3 plain --device cuda --max-running-requests 256 --disable-cuda-graph
fp8_e4m3 chunks --device cuda --max-running-requests 33 --chunked-prefill-size 7
fp8_e4m3 scarce --device cuda --max-running-requests 64 --max-total-tokens 8192
RUNS
}

gpu_memory() {
    nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits 2>/dev/null | head -1
}

client() {
    python3 "$here/gpu_client.py" "$url" "$@"
}

# start_slice NAME [WORDS...]: a server of a slice of DeepSeek-R1 with random weights, started by the words before it, and its first answer; the
# small tokenizer stands for the large one.
start_slice() {
    local name=$1
    shift
    url=http://127.0.0.1:18099
    "$@" "$proa" serve --device cuda --load-format dummy --slice-experts "${SLICE_EXPERTS:-9}" --model-path "${SLICE_MODEL:-$here/bench/deepseek-r1}" \
        --tokenizer-path "$here/models/tiny-r1" --port 18099 --context-length "${SLICE_CONTEXT:-8192}" --max-running-requests "${SLICE_RUNNING:-128}" \
        --chunked-prefill-size "${SLICE_CHUNK:-8192}" ${SLICE_FLAGS:-} ${SLICE_TOKENS:+--max-total-tokens "$SLICE_TOKENS"} >"$out/$name.log" 2>&1 &
    server=$!
    client wait 60 "$server" && client first >"$out/${name}_first.json" && return
    fail "$name: $(tail -2 "$out/$name.log")"
    return 1
}

end_slice() {
    kill -TERM "$server"
    wait "$server" || fail "$1's end: $(tail -2 "$out/$1.log")"
    server=
}

# Nothing is compiled at run time: no compiler is among the files that a server opens from exec to its first answer, nor among its libraries.
compilers() {
    local strace log=$out/compilers_strace.log
    strace=$(PATH=$here/bin:$PATH command -v strace)
    local trace=("$strace" -D -f -o "$log" -e 'trace=openat,execve')
    if [ -z "$strace" ]; then
        echo "NOT TRACED: there is no strace here: what a server opens is shown by its mapped libraries alone"
        trace=()
    elif ! "${trace[@]}" true 2>"$out/compilers_try.log" || ! grep -q execve "$log"; then
        echo "NOT TRACED: strace cannot trace here, so that what a server opens is shown by its mapped libraries alone: $(head -1 "$out/compilers_try.log")"
        trace=()
    fi
    start_slice compilers "${trace[@]}" || return
    "$here/gpu_compilers.sh" "$server" ${trace[0]:+"$log"} || bad=1
    end_slice compilers
}

slice() {
    local started ready
    started=$(date +%s%N)
    start_slice slice || return
    ready=$(date +%s%N)
    echo "slice: $(((ready - started) / 1000000)) ms from exec to the end of the first answer"
    local before after
    before=$(gpu_memory)
    timeout 400 "$proa" bench load --url "$url" --num-prompts "${SLICE_REQUESTS:-1000}" --max-concurrency "${SLICE_RUNNING:-128}" \
        --random-input-len "${SLICE_INPUT:-1024}" --random-output-len "${SLICE_OUTPUT:-128}" --json "$out/slice_load.json" \
        >"$out/slice_load.log" 2>&1 || fail "slice under load: $(tail -2 "$out/slice_load.log")"
    client cancel 40 2>"$out/slice_cancel.log" || fail "slice: $(tail -2 "$out/slice_cancel.log")"
    client soak "${SLICE_SOAK:-1000}" 96 >"$out/slice_soak.log" 2>&1 || fail "slice's soak: $(tail -3 "$out/slice_soak.log")"
    sed 's/^/slice soak: /' "$out/slice_soak.log"
    after=$(gpu_memory)
    echo "slice: GPU memory ${before:-?} MiB before, ${after:-?} MiB after the requests"
    [ "$before" = "$after" ] || fail "slice: GPU memory went from $before to $after MiB"
    tail -12 "$out/slice_load.log"
    "$here/gpu_compilers.sh" "$server" || bad=1
    end_slice slice
}

trap '[ -n "$server" ] && kill "$server" 2>/dev/null' EXIT
for part in ${PARTS:-golden answers compilers slice}; do
    case $part in
    golden) golden ;;
    answers) answers ;;
    compilers) compilers ;;
    slice) slice ;;
    *) fail "PARTS: $part is none of golden, answers, compilers, slice" ;;
    esac
done
exit $bad
