"""A cluster on this machine: frontends, prefill and decode workers as processes that find each other through a folder. Answers are
those of one process, bit for bit, whatever dies, stops, leaves or speaks out of turn. (test_lab.py has hosts, etcd and NATS;
fault_runs.py the whole matrix.)"""
import asyncio
import collections
import signal
import struct
import time

import pytest

import mixed
from cluster import STANDIN_NIXL, Cluster, Settings, nixl_environment, wait_for
from places import Loopback
from proof import Load

HERE = Loopback()
MIXED = mixed.draw_requests(40)
GONE_SECONDS = 4  # a stall is seen within 3 s
PROOF = Settings(load_format="proof", worker_flags=("--threads", "1", "--max-total-tokens", "32768"))


def start_cluster(proa, folder, settings, prefill=1, decode=1, frontends=1):
    cluster = Cluster(proa, folder, settings)
    for mode, count in (("prefill", prefill), ("decode", decode)):
        for _ in range(count):
            cluster.worker(HERE, mode)
    for _ in range(frontends):
        cluster.frontend(HERE)
    return cluster


@pytest.fixture
def two_of_each(proa, tmp_path):
    with start_cluster(proa, tmp_path, PROOF, prefill=2, decode=2, frontends=2) as cluster:
        cluster.wait_ready()
        yield cluster


def load_of(cluster, **more):
    urls = [f.url for f in cluster.frontends]
    return Load(**{"urls": urls, "clients": 8, "requests": 20, "prompt_tokens": (1, 400), "new_tokens": (8, 48)} | more)


def judge(outcomes, load, allowed=("ok",)):
    """Nothing is wrong, nothing is cut short, nothing has failed."""
    bad = [o for o in outcomes if o.kind not in allowed]
    assert not bad, f"{collections.Counter(o.kind for o in outcomes)}, the first: {bad[0]}"
    assert len(outcomes) == load.clients * load.requests


def assert_nothing_left(cluster):
    wait_for(lambda: not cluster.leftovers(), 5, "nothing is left over")


# --- answers ---

@pytest.fixture(scope="module")
def one_process(server):
    running = server("--threads", 1)
    return asyncio.run(mixed.ask_all(running.url, MIXED))


def test_the_mixed_requests_are_good_ones(one_process):
    assert not [a for a in one_process if {"status", "cut", "error"} & set(a)]
    assert len({str(a) for a in one_process}) > len(MIXED) * 0.9


PAIRS = {
    "ucx": Settings(),
    "ucx, no key": Settings(key=None),
    "nixl's stand-in": Settings(transfer="nixl", environment=nixl_environment(STANDIN_NIXL)),
}


@pytest.mark.parametrize("settings", PAIRS.values(), ids=PAIRS)
def test_a_pair_answers_as_one_process(proa, tmp_path, one_process, settings):
    with start_cluster(proa, tmp_path, settings) as cluster:
        cluster.wait_ready()
        answers = asyncio.run(mixed.ask_all(cluster.frontends[0].url, MIXED))
        assert not mixed.differences(answers, one_process, MIXED)
        assert_nothing_left(cluster)
        cluster.stop()


def test_roles_in_one_process_answer_the_same(server, one_process):
    running = server("--threads", 1, "--prefill-workers", 2, "--decode-workers", 2)
    assert not mixed.differences(asyncio.run(mixed.ask_all(running.url, MIXED)), one_process, MIXED)


def test_a_combined_worker_answers_the_same(proa, tmp_path, one_process):
    with start_cluster(proa, tmp_path, Settings(), prefill=0, decode=0) as cluster:
        cluster.worker(HERE, "null")
        cluster.wait_ready()
        answers = asyncio.run(mixed.ask_all(cluster.frontends[0].url, MIXED))
        assert not mixed.differences(answers, one_process, MIXED)
        cluster.stop()


# --- deaths ---

def test_kill_of_one_worker_of_each_kind(two_of_each):
    load = load_of(two_of_each)
    run = two_of_each.load(HERE, load)
    run.wait_done(30)
    two_of_each.workers[0].kill()
    run.wait_done(100)
    two_of_each.workers[2].kill()
    judge(run.wait(60), load)
    assert_nothing_left(two_of_each)
    two_of_each.stop()


def test_a_worker_that_stops_is_passed_over(two_of_each):
    load = load_of(two_of_each, requests=15)
    run = two_of_each.load(HERE, load)
    run.wait_done(20)
    stopped = [two_of_each.workers[0], two_of_each.workers[2]]
    for worker in stopped:
        worker.kill(signal.SIGSTOP)
    outcomes = run.wait(60)
    judge(outcomes, load)
    assert 0.5 < max(o.gap_s for o in outcomes) < 2 * GONE_SECONDS
    for worker in stopped:
        worker.kill(signal.SIGCONT)
    two_of_each.wait_ready()
    again = load_of(two_of_each, requests=5, seed=2)
    judge(two_of_each.load(HERE, again).wait(30), again)
    assert_nothing_left(two_of_each)


def test_a_drained_worker_fails_nobody(two_of_each):
    load = load_of(two_of_each)
    run = two_of_each.load(HERE, load)
    for done, worker in ((30, two_of_each.workers[0]), (90, two_of_each.workers[2])):
        run.wait_done(done)
        assert worker.stop() == 0
    judge(run.wait(60), load)
    assert_nothing_left(two_of_each)


def test_workers_come_back(two_of_each):
    """All workers of a kind die: requests are refused with Retry-After until there is one again."""
    frontend = two_of_each.frontends[0]
    for worker in two_of_each.workers[2:]:
        worker.kill()
    wait_for(lambda: frontend.instances()["backend"] == 0, GONE_SECONDS, "the frontend has noticed")
    response = frontend.post("/generate", {"input_ids": [5], "sampling_params": {"max_new_tokens": 3}})
    assert response.status_code == 503 and int(response.headers["retry-after"]) >= 1
    for worker in two_of_each.workers[2:]:
        worker.start()
    two_of_each.wait_ready()
    load = load_of(two_of_each, requests=5)
    judge(two_of_each.load(HERE, load).wait(30), load)


def test_one_of_two_frontends_dies(two_of_each):
    load = load_of(two_of_each, stream_share=1.0)
    run = two_of_each.load(HERE, load)
    run.wait_done(40)
    two_of_each.frontends[0].kill()
    outcomes = run.wait(60)
    judge(outcomes, load, allowed=("ok", "failed"))
    failed = [o for o in outcomes if o.kind == "failed"]
    assert len(failed) <= load.clients // 2 and all(o.url == two_of_each.frontends[0].url for o in failed)
    assert_nothing_left(two_of_each)


def test_clients_that_leave(two_of_each):
    warm = load_of(two_of_each, requests=5)
    judge(two_of_each.load(HERE, warm).wait(30), warm)
    assert_nothing_left(two_of_each)
    before = two_of_each.descriptors()
    load = load_of(two_of_each, requests=15, leave_share=0.5, prompt_tokens=(100, 1000))
    outcomes = two_of_each.load(HERE, load).wait(60)
    judge(outcomes, load, allowed=("ok", "left"))
    assert sum(o.kind == "left" for o in outcomes) > 20
    assert_nothing_left(two_of_each)
    wait_for(lambda: two_of_each.descriptors() == before, 5, f"descriptors are {before} again")


# --- strangers ---

def frame(magic=b"PROA", version=1, number=0xFF00, length=0, body=b""):
    return struct.pack("<4sHHI", magic, version, number, length) + body


STRANGERS = {
    "a browser": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a frame of another version": frame(version=999),
    "a frame that is too long": frame(length=0xFFFFFFFF),
    "a message before the handshake": frame(number=1, length=64, body=bytes(64)),
    "random bytes": bytes((i * 167 + 13) % 256 for i in range(4096)),
}


def refused(worker, port, data):
    """Sends it; the lines that the worker has logged about it, once it has closed the connection."""
    before = len(worker.process.log().splitlines())
    with HERE.connect(HERE.address, port) as connection:
        connection.sendall(data)
        deadline = time.monotonic() + 4
        connection.settimeout(4)
        try:
            while connection.recv(4096):
                assert time.monotonic() < deadline
        except ConnectionResetError:
            pass
    return wait_for(lambda: worker.process.log().splitlines()[before:], 2, "a line in the log")


@pytest.fixture(scope="module")
def pair(proa, tmp_path_factory):
    with start_cluster(proa, tmp_path_factory.mktemp("pair"), PROOF) as cluster:
        cluster.wait_ready()
        yield cluster


@pytest.mark.parametrize("data", STRANGERS.values(), ids=STRANGERS)
def test_strangers_are_refused(pair, data):
    prefill, decode = pair.workers
    for worker, port in ((prefill, prefill.port), (prefill, prefill.bootstrap_port), (decode, decode.port)):
        lines = refused(worker, port, data)
        assert len(lines) == 1, lines
    load = load_of(pair, clients=2, requests=2)
    judge(pair.load(HERE, load).wait(20), load)


def test_a_silent_stranger_is_closed(pair):
    lines = refused(pair.workers[0], pair.workers[0].bootstrap_port, b"")
    assert len(lines) == 1, lines


def test_a_frontend_with_another_key_gets_nothing(proa, tmp_path, pair):
    other = Cluster(proa, tmp_path, Settings(key="another key, 32 bytes long too..", load_format="proof"))
    (tmp_path / "discovery").symlink_to(pair.folder / "discovery")
    with other:
        frontend = other.frontend(HERE)
        wait_for(lambda: frontend.health() is not None, 10, "the frontend answers")
        log = pair.workers[0].process.log
        before = len(log())
        wait_for(lambda: "key" in log()[before:], 10, "the worker names the key")
        assert not frontend.instances()
        response = frontend.post("/generate", {"input_ids": [5], "sampling_params": {"max_new_tokens": 3}})
        assert response.status_code == 503
    load = load_of(pair, clients=2, requests=2)
    judge(pair.load(HERE, load).wait(20), load)


@pytest.mark.parametrize("field", ["bootstrap_room", "bootstrap_host", "bootstrap_port", "routed_dp_rank", "kv_transfer_params"])
def test_clients_cannot_name_what_is_inside(pair, field):
    body = {"input_ids": [5], "sampling_params": {"max_new_tokens": 3}, field: {"do_remote_decode": True} if "params" in field else 1}
    response = pair.frontends[0].post("/generate", body)
    assert response.status_code == 400 and field in response.json()["error"]["message"]
