"""The command lines of Dynamo's two guides for DeepSeek-R1 on H100 and GB200 start and serve, with the programs' names replaced, on
one node of few ranks. What the guides have around them is here too: etcd and nats-server named in the environment."""
import shlex

import pytest

from cluster import TINY, Cluster, Settings, nixl_environment, real_nixl, wait_for

PREFILL, DECODE, SERVERS, HOSTS = 0, 1, 2, 3
NAME = "deepseek-ai/DeepSeek-R1"
INGRESS = "python3 -m dynamo.frontend --http-port=8000"
H100 = {
    "ranks": "2",
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
    "ranks": "1",  # its limits are for 8 and 48: over 2 they are more than low_latency takes
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


def translate(proa, line, addresses, transfer, ranks):
    """The command with the program replaced, one node, and the model where it is."""
    place = {"--nnodes": "1", "--tp-size": ranks, "--dp-size": ranks}
    for name, address in addresses.items():
        line = line.replace("${" + name + "}", address)
    words = shlex.split(line)
    role = {"dynamo.frontend": "frontend", "dynamo.sglang": "worker"}[words[2]]
    words = [str(proa), role] + words[3:]
    for i, word in enumerate(words[:-1]):
        if word in place:
            words[i + 1] = place[word]
        elif word == "--model-path":
            words[i + 1] = str(TINY)
        elif word == "--disaggregation-transfer-backend":
            words[i + 1] = transfer
    return words


@pytest.mark.parametrize("guide, transfer", [(H100, "nixl"), (H100, "ucx"), (GB200, "ucx")], ids=["h100", "h100-ucx", "gb200"])
def test_the_guides_commands_serve(proa, tmp_path, lab, guide, transfer):
    """The H100 guide's with NIXL, and where that is absent with UCX; the GB200 guide names neither."""
    library, missing = real_nixl()
    if transfer == "nixl" and missing:
        pytest.skip(missing)
    more = nixl_environment(library) if transfer == "nixl" else {}
    hosts = lab(HOSTS)
    addresses = {"HEAD_PREFILL_NODE_IP": hosts.host(PREFILL).address, "HEAD_DECODE_NODE_IP": hosts.host(DECODE).address}
    with Cluster(proa, tmp_path, Settings()) as cluster:
        environment = {"ETCD_ENDPOINTS": cluster.etcd(hosts.host(SERVERS)).endpoints, "NATS_SERVER": cluster.nats(hosts.host(SERVERS)).url,
                       "PROA_CLUSTER_KEY": Settings.key, "UCX_NET_DEVICES": "eth0", **more}
        processes = []
        for name, line, place in (("ingress", INGRESS, hosts.host(PREFILL)), ("prefill", guide["prefill"], hosts.host(PREFILL)),
                                  ("decode", guide["decode"], hosts.host(DECODE))):
            command = translate(proa, line, addresses, transfer, guide["ranks"])
            processes.append(place.popen(name, command, tmp_path / f"{name}.log", environment))
        serve_and_end(hosts, processes)


def serve_and_end(hosts, processes):
    client = hosts.host(DECODE)
    url = f"http://{hosts.host(PREFILL).address}:8000"

    def ready():
        for process in processes:
            assert process.alive, f"{process.name} has ended:\n{process.log_tail()}"
        instances = client.get(f"{url}/health").json().get("instances", [])
        return {i["component"] for i in instances if i["endpoint"] == "generate"} == {"prefill", "backend"}

    wait_for(ready, 30, "the frontend lists both workers")
    body = {"model": NAME, "messages": [{"role": "user", "content": "what is 12+34?"}], "max_tokens": 60, "temperature": 0}
    answer = client.post(f"{url}/v1/chat/completions", body, timeout=30)
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == "46"
    for process in processes:
        process.kill(15)
        assert process.wait(15) == 0
