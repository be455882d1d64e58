"""The whole system on hosts of its own: two prefill and two decode workers on four, etcd and nats-server on a fifth, a frontend on a
sixth, the client on a seventh. Answers equal one process's, bit for bit, over every transfer and request plane."""
import asyncio
import collections
import json

import pytest

import mixed
from cluster import Cluster, Settings, nixl_environment, real_nixl, wait_for
from proof import Load

PREFILL, DECODE, SERVERS, FRONTEND, CLIENT, HOSTS = (0, 1), (2, 3), 4, 5, 6, 7
QUICK = mixed.draw_requests(30)
WHOLE = mixed.draw_requests(200)
BACKENDS = ["ucx", "nixl"]  # "local" is one process's: test_cluster.py
PLANES = ["tcp", "nats"]
LEASE_SECONDS = 15  # until a dead worker's keys are gone
PROOF = {"load_format": "proof", "worker_flags": ("--threads", "1", "--max-total-tokens", "32768")}


@pytest.fixture
def start(proa, tmp_path, lab):
    """start(transfer=..., request_plane=...) -> a lab and a cluster in it that is ready."""
    clusters = []

    def begin(**settings):
        environment = {"UCX_NET_DEVICES": "eth0"}
        if settings.get("transfer") == "nixl":
            library, missing = real_nixl()
            if missing:
                pytest.skip(missing)
            environment |= nixl_environment(library)
        hosts = lab(HOSTS)
        cluster = Cluster(proa, tmp_path, Settings(discovery="etcd", environment=environment, **settings))
        clusters.append(cluster)
        cluster.__enter__()
        cluster.etcd(hosts.host(SERVERS))
        cluster.nats(hosts.host(SERVERS))
        for mode, indices in (("prefill", PREFILL), ("decode", DECODE)):
            for index in indices:
                cluster.worker(hosts.host(index), mode)
        cluster.frontend(hosts.host(FRONTEND))
        cluster.wait_ready()
        return hosts, cluster

    yield begin
    for cluster in clusters:
        cluster.print_logs()  # pytest shows it when the test has failed
        cluster.__exit__(None)


@pytest.fixture(scope="module")
def one_process(server):
    """one_process(requests) are the answers of `proa serve`."""
    known = {}

    def ask(requests):
        if len(requests) not in known:
            known[len(requests)] = asyncio.run(mixed.ask_all(server("--threads", 1).url, requests))
        return known[len(requests)]

    return ask


def ask_in(hosts, cluster, requests):
    return mixed.ask_from(hosts.host(CLIENT), cluster.folder / "mixed.log", cluster.frontends[0].url, requests)


def assert_clean_end(cluster):
    """Nothing is held; after an orderly end etcd has heard of all of it."""
    wait_for(lambda: not cluster.leftovers(), 10, "nothing is left over")
    dead = not all(worker.alive for worker in cluster.workers)
    cluster.stop()
    etcd = cluster.etcd_servers
    wait_for(lambda: not etcd.keys() and not etcd.leases(), LEASE_SECONDS if dead else 1, "etcd has no key and no lease")
    wait_for(lambda: cluster.nats_server.connections() == 0, 5, "nobody is connected to nats-server")


def test_six_hosts_answer_as_one_process(start, one_process):
    hosts, cluster = start(request_plane="nats")
    assert not mixed.differences(ask_in(hosts, cluster, QUICK), one_process(QUICK), QUICK)
    assert_clean_end(cluster)


@pytest.mark.long
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("transfer", BACKENDS)
def test_every_transfer_and_plane(start, one_process, transfer, plane):
    hosts, cluster = start(transfer=transfer, request_plane=plane)
    assert not mixed.differences(ask_in(hosts, cluster, WHOLE), one_process(WHOLE), WHOLE)
    before = sum(hosts.counts(p, d).passed for p in PREFILL for d in DECODE)
    assert before > len(WHOLE)  # the rows have travelled
    assert_clean_end(cluster)


@pytest.mark.long
def test_questions_are_answered_as_well(start, proa, run, tmp_path):
    """proa eval's score, and every output, through the cluster."""
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    assert run("eval", "--limit", 300, "--output", here, timeout=300).returncode == 0
    hosts, cluster = start()
    command = [proa, "eval", "--limit", "300", "--output", there, "--url", cluster.frontends[0].url]
    evaluation = hosts.host(CLIENT).popen("eval", command, tmp_path / "eval.log")
    assert evaluation.wait(300) == 0, evaluation.log_tail()
    assert outputs(there) == outputs(here)
    assert_clean_end(cluster)


def outputs(path):
    return {row["id"]: row["output"] for row in map(json.loads, path.read_text().splitlines())}


def judge(outcomes):
    bad = [o for o in outcomes if o.kind != "ok"]
    assert not bad, f"{collections.Counter(o.kind for o in outcomes)}, the first: {bad[0]}"


@pytest.mark.long
@pytest.mark.parametrize("victim", [PREFILL[0], DECODE[0]], ids=["prefill", "decode"])
def test_power_off_is_survived(start, victim):
    """No reset and no farewell reach anybody: only silence tells."""
    hosts, cluster = start(**PROOF)
    load = Load([cluster.frontends[0].url], requests=40, prompt_tokens=(1, 600))
    run = cluster.load(hosts.host(CLIENT), load)
    run.wait_done(60)
    hosts.power_off(victim)
    outcomes = run.wait(90)
    judge(outcomes)
    assert len(outcomes) == load.clients * load.requests
    assert 1 < max(o.gap_s for o in outcomes) < 8
    assert_clean_end(cluster)


@pytest.mark.long
def test_a_bad_network_only_costs_time(start):
    hosts, cluster = start(**PROOF)
    hosts.loss(2)
    hosts.duplicate(2)
    hosts.delay(5, jitter_ms=5)
    load = Load([cluster.frontends[0].url], requests=20, prompt_tokens=(1, 600))
    judge(cluster.load(hosts.host(CLIENT), load).wait(120))
    assert hosts.counts(PREFILL[0], DECODE[0]).lost > 0
    hosts.heal()
    assert_clean_end(cluster)
