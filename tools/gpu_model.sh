#!/bin/bash
# gpu_model.sh PROA OUT - whole models on a GPU, in a folder that gpu_pack.sh made: golden checkpoints against their references, tiny-r1's
# answers, law 2 through the engine, and one rank's share of DeepSeek-R1 behind HTTP: from exec to the first token, then requests of all
# lengths with cancellations, memory before and after. Logs and results come into OUT; ends with 1 where something is wrong.
set -uo pipefail
proa=$1 out=$2 here=$(cd "$(dirname "$0")" && pwd)
bad=0
server=
mkdir -p "$out"

fail() {
    echo "FAILED $*"
    bad=1
}

golden() {
    for folder in "$here"/golden/*/; do
        name=$(basename "$folder")
        if timeout 300 "$proa" logits --device cuda --model-path "$folder" --input "$folder/expected.safetensors" \
            --prefix 32 --generate 0 --compare >"$out/golden_$name.log" 2>&1; then
            echo "passed golden $name: $(grep -m1 median "$out/golden_$name.log")"
        else
            fail "golden $name: $(tail -1 "$out/golden_$name.log")"
        fi
    done
}

# Tokens and logprobs do not show what ran beside them, how prompts were cut, or whether there was a graph.
answers() {
    local want=
    while read -r name flags; do
        # shellcheck disable=SC2086 # flags are words
        if ! timeout 600 "$proa" eval --model-path "$here/models/tiny-r1" --output "$out/eval_$name.jsonl" $flags \
            >"$out/eval_$name.log" 2>&1; then
            fail "eval $name: $(tail -1 "$out/eval_$name.log")"
            continue
        fi
        echo "eval $name: $(tail -1 "$out/eval_$name.log")"
        [ "$name" = cpu ] && continue
        sort "$out/eval_$name.jsonl" | sha256sum >"$out/eval_$name.sum"
        if [ -z "$want" ]; then
            want=$out/eval_$name.sum
        elif ! cmp -s "$want" "$out/eval_$name.sum"; then
            fail "law 2: eval $name differs from $want"
        fi
    done <<'RUNS'
cpu --device cpu
graphs --device cuda --max-running-requests 256
alone --device cuda --max-running-requests 1 --limit 0
plain --device cuda --max-running-requests 256 --disable-cuda-graph
chunks --device cuda --max-running-requests 33 --chunked-prefill-size 7
padded --device cuda --max-running-requests 64 --cuda-graph-bs 64
scarce --device cuda --max-running-requests 64 --max-total-tokens 8192
RUNS
}

gpu_memory() {
    nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits 2>/dev/null | head -1
}

wait_for_server() { # SECONDS
    local end=$((SECONDS + $1))
    while ! curl -s -f -o "$out/health" "$url/health" 2>/dev/null; do
        if ! kill -0 "$server" 2>/dev/null || [ "$SECONDS" -ge "$end" ]; then
            return 1
        fi
        sleep 0.05
    done
}

one_token() {
    curl -s -m 60 "$url/v1/completions" -H 'content-type: application/json' -d '{"prompt": "2+2=", "max_tokens": 1, "ignore_eos": true}'
}

# A slice of DeepSeek-R1 with random weights; the small tokenizer stands for the large one.
slice() {
    url=http://127.0.0.1:18099
    local started ready
    started=$(date +%s%N)
    "$proa" serve --device cuda --load-format dummy --slice-experts "${SLICE_EXPERTS:-9}" --model-path "${SLICE_MODEL:-$here/bench/deepseek-r1}" \
        --tokenizer-path "$here/models/tiny-r1" --port 18099 --context-length "${SLICE_CONTEXT:-8192}" --max-running-requests "${SLICE_RUNNING:-128}" \
        --chunked-prefill-size "${SLICE_CHUNK:-8192}" >"$out/slice.log" 2>&1 &
    server=$!
    if ! wait_for_server 120 || ! one_token >"$out/slice_first.json"; then
        fail "slice: $(tail -2 "$out/slice.log")"
        return
    fi
    ready=$(date +%s%N)
    echo "slice: $(((ready - started) / 1000000)) ms from exec to the end of the first answer"
    grep -q '"choices"' "$out/slice_first.json" || fail "slice's first answer: $(head -c 300 "$out/slice_first.json")"
    local before after
    before=$(gpu_memory)
    timeout 400 "$proa" bench load --url "$url" --num-prompts "${SLICE_REQUESTS:-1000}" --max-concurrency "${SLICE_RUNNING:-128}" \
        --random-input-len "${SLICE_INPUT:-1024}" --random-output-len "${SLICE_OUTPUT:-128}" --json "$out/slice_load.json" \
        >"$out/slice_load.log" 2>&1 || fail "slice under load: $(tail -2 "$out/slice_load.log")"
    cancel_some
    after=$(gpu_memory)
    echo "slice: GPU memory ${before:-?} MiB before, ${after:-?} MiB after the requests"
    [ "$before" = "$after" ] || fail "slice: GPU memory went from $before to $after MiB"
    tail -12 "$out/slice_load.log"
    kill -TERM "$server"
    wait "$server" || fail "slice's end: $(tail -2 "$out/slice.log")"
    server=
}

# Clients that go in the middle of an answer; then nothing is left running.
cancel_some() {
    for i in $(seq 40); do
        curl -s -m "0.$((i % 8 + 1))" "$url/v1/completions" -H 'content-type: application/json' \
            -d "{\"prompt\": \"$i+$i=\", \"max_tokens\": 2000, \"ignore_eos\": true, \"stream\": true}" >/dev/null &
    done
    for pid in $(jobs -p); do
        [ "$pid" = "$server" ] || wait "$pid"
    done
    for _ in $(seq 100); do
        curl -s "$url/metrics" >"$out/slice_metrics.txt"
        grep -q '^proa:num_running_reqs.* 0$' "$out/slice_metrics.txt" && return
        sleep 0.1
    done
    fail "slice: requests of clients that went still run"
}

trap '[ -n "$server" ] && kill "$server" 2>/dev/null' EXIT
for part in ${PARTS:-golden answers slice}; do
    case $part in
    golden) golden ;;
    answers) answers ;;
    slice) slice ;;
    *) fail "PARTS: $part is none of golden, answers, slice" ;;
    esac
done
exit $bad
