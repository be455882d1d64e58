"""The H100 guide's cluster on one machine: a host for the frontend and the servers, four for the ranks of the prefill worker, four for
those of the decode worker (lab.py). The commands are the guide's, but for paths, addresses, and what a test changes.

    with GuideCluster(proa, folder, lab(HOSTS), model, {"--tp-size": 8, "--dp-size": 8}) as cluster:
        cluster.start()
        answers = cluster.ask(mixed.draw_requests(20))
"""
import json
import pathlib
import shutil
import time

import mixed
from cluster import TINY, Cluster, Frontend, Settings, Worker
from guides import H100, INGRESS, translate
from places import children_of

NODES = 4  # of each worker
HOSTS = 1 + 2 * NODES
FIRST_NODE = {"prefill": 1, "decode": 1 + NODES}
HEADS = {"HEAD_PREFILL_NODE_IP": "prefill", "HEAD_DECODE_NODE_IP": "decode"}
READY_SECONDS = 300


def make_wide_model(folder):
    """A checkpoint's folder without weights: as many experts as DeepSeek-R1 has, in its groups, and little else; tiny-r1's tokenizer.
    For --load-format dummy."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(TINY / name, folder / name)
    config = json.loads((TINY / "config.json").read_text())
    config |= {"hidden_size": 128, "intermediate_size": 128, "moe_intermediate_size": 128, "num_hidden_layers": 3,
               "first_k_dense_replace": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "n_routed_experts": 256, "n_group": 8,
               "topk_group": 4, "num_experts_per_tok": 8, "num_nextn_predict_layers": 0}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


class GuideFrontend(Frontend):
    def __init__(self, name, place, cluster, flags):
        super().__init__(name, place, cluster, flags)
        self.port = 8000
        self.url = f"http://{place.address}:{self.port}"

    def command(self):
        return translate(self.cluster.program, INGRESS, {}, {})


class GuideNode(Worker):
    """A node of the guide's prefill or decode worker."""

    def __init__(self, mode, node, cluster, changes, ranks):
        place = cluster.lab.host(FIRST_NODE[mode] + node)
        super().__init__(f"{mode}{node}", place, cluster, mode, (), ranks)
        self.changes = {"--model-path": cluster.settings.model, "--load-format": cluster.settings.load_format,
                        "--disaggregation-transfer-backend": "ucx", "--node-rank": node} | changes

    def command(self):
        addresses = {name: self.cluster.lab.host(FIRST_NODE[mode]).address for name, mode in HEADS.items()}
        return translate(self.cluster.program, H100[self.mode], addresses, self.changes)


class GuideCluster(Cluster):
    """`changes` are those of both workers' flags; `prefill` and `decode` of one's."""

    def __init__(self, proa, folder, lab, model, changes=(), prefill=(), decode=()):
        dummy = not (model / "model.safetensors.index.json").exists()
        super().__init__(proa, folder, Settings(discovery="etcd", model=model, load_format="dummy" if dummy else "auto",
                                                environment={"UCX_NET_DEVICES": "eth0"}))
        self.lab = lab
        self.changes = {"prefill": dict(changes) | dict(prefill), "decode": dict(changes) | dict(decode)}
        self.ready_seconds = None
        self.asked_seconds = 0.0

    def start(self):
        """All programs, until the frontend can use every rank."""
        servers = self.lab.host(0)
        self.etcd(servers)
        self.nats(servers)
        self.settings.environment["NATS_SERVER"] = self.nats_server.url
        begin = time.monotonic()
        self.frontends.append(GuideFrontend("frontend0", servers, self, ()))
        self.frontends[-1].start()
        for mode in FIRST_NODE:
            for node in range(NODES):
                changes = self.changes[mode]
                self.workers.append(GuideNode(mode, node, self, changes, int(changes.get("--tp-size", 32)) // NODES))
                self.workers[-1].start()
        self.wait_ready(READY_SECONDS)
        self.ready_seconds = time.monotonic() - begin

    def ask(self, requests, at_once=32, timeout=600):
        """Their answers, asked from the frontend's host."""
        begin = time.monotonic()
        answers = mixed.ask_from(self.lab.host(0), self.folder / "mixed.log", self.frontends[0].url, requests, at_once, timeout)
        self.asked_seconds += time.monotonic() - begin
        return answers

    def tokens_a_second(self):
        """Generated while ask() waited."""
        return sum(self.frontends[0].metrics()["proa:generation_tokens_total"].values()) / self.asked_seconds

    def resident_bytes(self):
        """Of each rank."""
        return [resident_bytes(pid) for worker in self.workers for pid in children_of(worker.process.pid)]


def resident_bytes(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024
