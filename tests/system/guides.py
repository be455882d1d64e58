"""The command lines of Dynamo's two guides for DeepSeek-R1 on H100 and GB200, and how they become ours."""
import pathlib
import shlex

DEEPEP = str(pathlib.Path(__file__).with_name("deepep.json"))  # in place of the container's file

NAME = "deepseek-ai/DeepSeek-R1"
INGRESS = "python3 -m dynamo.frontend --http-port=8000"
H100 = {
    "prefill": """python3 -m dynamo.sglang --model-path /model/ --served-model-name deepseek-ai/DeepSeek-R1
        --skip-tokenizer-init --disaggregation-mode prefill --disaggregation-transfer-backend nixl --host 0.0.0.0
        --disaggregation-bootstrap-port 30001 --dist-init-addr ${HEAD_PREFILL_NODE_IP}:29500 --nnodes 4 --node-rank 0 --tp-size 32
        --dp-size 32 --enable-dp-attention --decode-log-interval 1000 --moe-a2a-backend deepep --load-balance-method round_robin
        --page-size 1 --trust-remote-code --moe-dense-tp-size 1 --enable-dp-lm-head --disable-radix-cache
        --watchdog-timeout 1000000 --enable-two-batch-overlap --deepep-mode normal --mem-fraction-static 0.85
        --deepep-config /configs/deepep.json --ep-num-redundant-experts 32 --ep-dispatch-algorithm dynamic
        --eplb-algorithm deepseek""",
    "decode": """python3 -m dynamo.sglang --model-path /model/ --served-model-name deepseek-ai/DeepSeek-R1
        --skip-tokenizer-init --disaggregation-mode decode --disaggregation-transfer-backend nixl
        --disaggregation-bootstrap-port 30001 --host 0.0.0.0 --dist-init-addr ${HEAD_DECODE_NODE_IP}:29500 --nnodes 4
        --node-rank 0 --tp-size 32 --dp-size 32 --enable-dp-attention --decode-log-interval 1000 --moe-a2a-backend deepep
        --prefill-round-robin-balance --page-size 1 --trust-remote-code --moe-dense-tp-size 1 --enable-dp-lm-head
        --disable-radix-cache --watchdog-timeout 1000000 --enable-two-batch-overlap --deepep-mode low_latency
        --mem-fraction-static 0.835 --ep-num-redundant-experts 32 --cuda-graph-bs 128""",
}
GB200 = {
    "prefill": """python3 -m dynamo.sglang --served-model-name deepseek-ai/DeepSeek-R1 --model-path /model/ --skip-tokenizer-init
        --trust-remote-code --disaggregation-mode prefill --dist-init-addr ${HEAD_PREFILL_NODE_IP}:29500
        --disaggregation-bootstrap-port 30001 --nnodes 2 --node-rank 0 --tp-size 8 --dp-size 8 --enable-dp-attention --host 0.0.0.0
        --decode-log-interval 1 --max-running-requests 6144 --context-length 2716 --disable-radix-cache --moe-dense-tp-size 1
        --enable-dp-lm-head --disable-shared-experts-fusion --ep-num-redundant-experts 32 --ep-dispatch-algorithm static
        --eplb-algorithm deepseek --attention-backend cutlass_mla --watchdog-timeout 1000000 --disable-cuda-graph
        --chunked-prefill-size 16384 --max-total-tokens 32768 --mem-fraction-static 0.8 --log-level debug""",
    "decode": """python3 -m dynamo.sglang --served-model-name deepseek-ai/DeepSeek-R1 --model-path /model/ --skip-tokenizer-init
        --trust-remote-code --disaggregation-mode decode --dist-init-addr ${HEAD_DECODE_NODE_IP}:29500
        --disaggregation-bootstrap-port 30001 --nnodes 12 --node-rank 0 --tp-size 48 --dp-size 48 --enable-dp-attention --host 0.0.0.0
        --decode-log-interval 1 --max-running-requests 36864 --context-length 2716 --disable-radix-cache --moe-dense-tp-size 1
        --enable-dp-lm-head --disable-shared-experts-fusion --ep-num-redundant-experts 32 --deepep-mode low_latency
        --eplb-algorithm deepseek --attention-backend cutlass_mla --watchdog-timeout 1000000 --cuda-graph-bs 768
        --chunked-prefill-size 36864 --max-total-tokens 32768 --mem-fraction-static 0.82 --log-level debug""",
}


def translate(proa, line, addresses, changes):
    """The command with the program replaced and addresses put in. `changes` are values by flag, "" for a flag that stands alone, None for
    one that is left out; a flag that the line does not have is added."""
    for name, address in addresses.items():
        line = line.replace("${" + name + "}", address)
    line = line.replace("/configs/deepep.json", DEEPEP)
    words = shlex.split(line)
    role = {"dynamo.frontend": "frontend", "dynamo.sglang": "worker"}[words[2]]
    command = [str(proa), role]
    for flag, value in (flags_of(words[3:]) | changes).items():
        if value is not None:
            command += [flag] if value == "" else [flag, str(value)]
    return command


def flags_of(words):
    """{flag: its value, or ""} of a command line."""
    found = {}
    for word in words:
        if word.startswith("--"):
            flag, _, value = word.partition("=")
            found[flag] = value
        else:
            found[flag] = word
    return found
