"""The command lines of Dynamo's two guides for DeepSeek-R1 on H100 and GB200 start and serve, with the programs' names replaced, on
one node of few ranks. What the guides have around them is here too: etcd and nats-server named in the environment. With all their
ranks and nodes: test_topology.py."""
import pytest

from cluster import TINY, Cluster, Settings, nixl_environment, real_nixl, wait_for
from guides import GB200, H100, INGRESS, NAME, translate

PREFILL, DECODE, SERVERS, HOSTS = 0, 1, 2, 3


@pytest.mark.parametrize("guide, transfer, ranks", [(H100, "nixl", 2), (H100, "ucx", 2), (GB200, "ucx", 1)],
                         ids=["h100", "h100-ucx", "gb200"])
def test_the_guides_commands_serve(proa, tmp_path, lab, guide, transfer, ranks):
    """The H100 guide's with NIXL, and where that is absent with UCX; the GB200 guide names neither, and its limits are for 8 and 48
    ranks: over 2 they are more than low_latency takes."""
    library, missing = real_nixl()
    if transfer == "nixl" and missing:
        pytest.skip(missing)
    more = nixl_environment(library) if transfer == "nixl" else {}
    hosts = lab(HOSTS)
    addresses = {"HEAD_PREFILL_NODE_IP": hosts.host(PREFILL).address, "HEAD_DECODE_NODE_IP": hosts.host(DECODE).address}
    with Cluster(proa, tmp_path, Settings()) as cluster:
        environment = {"ETCD_ENDPOINTS": cluster.etcd(hosts.host(SERVERS)).endpoints, "NATS_SERVER": cluster.nats(hosts.host(SERVERS)).url,
                       "PROA_CLUSTER_KEY": Settings.key, "UCX_NET_DEVICES": "eth0", **more}
        changes = {"--model-path": TINY, "--nnodes": 1, "--tp-size": ranks, "--dp-size": ranks,
                   "--disaggregation-transfer-backend": transfer}
        processes = []
        for name, line, place in (("ingress", INGRESS, hosts.host(PREFILL)), ("prefill", guide["prefill"], hosts.host(PREFILL)),
                                  ("decode", guide["decode"], hosts.host(DECODE))):
            command = translate(proa, line, addresses, changes if name != "ingress" else {})
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
