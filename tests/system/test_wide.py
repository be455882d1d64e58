"""Workers of several ranks, each a process, that share the experts of tiny-r1: every answer is that of one process, bit for bit, whatever
the number of ranks and nodes, and whatever happens to a rank."""
import asyncio
import json
import os
import pathlib
import re
import signal
import threading

import httpx
import pytest

import mixed
from cluster import Cluster, Settings, wait_for
from places import Loopback, children_of

HERE = Loopback()
MIXED = mixed.draw_requests(20, seed=5)
ANY_PORT = ("--port", "0", "--disaggregation-bootstrap-port", "0")
READY_SECONDS = 60


@pytest.fixture(scope="module")
def one_process(server):
    running = server("--threads", 1)
    return asyncio.run(mixed.ask_all(running.url, MIXED))


def ranks_flags(count, *more):
    return ("--tp-size", str(count), "--dp-size", str(count), "--enable-dp-attention", *ANY_PORT, *more)


@pytest.fixture
def cluster(proa, tmp_path):
    with Cluster(proa, tmp_path, Settings(worker_flags=("--threads", "1", "--max-total-tokens", "16384"))) as one:
        yield one


def ask(cluster):
    return asyncio.run(mixed.ask_all(cluster.frontends[0].url, MIXED))


def assert_as_one(cluster, answers, one_process):
    assert not mixed.differences(answers, one_process, MIXED)
    wait_for(lambda: not cluster.leftovers(), 5, "nothing is left over")


WIDTHS = {
    "4, copies, two halves": (4, "--ep-num-redundant-experts", "8", "--ep-dispatch-algorithm", "dynamic", "--enable-two-batch-overlap",
                                "--enable-dp-lm-head", "--cuda-graph-bs", "128"),
    "8, low latency": (8, "--deepep-mode", "low_latency", "--moe-a2a-backend", "deepep", "--ep-num-redundant-experts", "16",
                       "--eplb-algorithm", "deepseek"),
}


LONG = {"8, low latency"}


@pytest.mark.parametrize("width", [pytest.param(w, marks=[pytest.mark.long] * (name in LONG)) for name, w in WIDTHS.items()],
                         ids=WIDTHS)
def test_ranks_answer_as_one_process(cluster, one_process, width):
    cluster.frontend(HERE)
    worker = cluster.worker(HERE, "null", *ranks_flags(*width), ranks=width[0])
    cluster.wait_ready(READY_SECONDS)
    assert_as_one(cluster, ask(cluster), one_process)
    assert len(re.findall(r"memory: .* tokens[^)]*\), all-to-all [\d.]+ MiB, buffers", worker.process.log())) == width[0]
    for flag in set(re.findall(r"(--\S+) has nothing to do here", worker.process.log())):
        assert worker.process.log().count(f"{flag} has nothing to do here") == 1  # not by each rank
    assert ("--enable-dp-lm-head has nothing" in worker.process.log()) == ("--enable-dp-lm-head" in width)
    cluster.stop()


def test_ranks_of_two_nodes(cluster, one_process):
    """Two parents, as on two hosts; neither serves before all four ranks have made a step."""
    address = f"127.0.0.1:{HERE.free_port()}"
    cluster.frontend(HERE)
    flags = ranks_flags(4, "--nnodes", "2", "--dist-init-addr", address)
    first = cluster.worker(HERE, "null", *flags, "--node-rank", "0", ranks=2)
    wait_for(lambda: "waiting for" in first.process.log(), 30, "the first node says what it waits for")
    assert not cluster.frontends[0].instances()
    cluster.worker(HERE, "null", *flags, "--node-rank", "1", ranks=2)
    cluster.wait_ready(READY_SECONDS)
    assert_as_one(cluster, ask(cluster), one_process)
    cluster.stop()


def test_prefill_and_decode_of_different_width(cluster, one_process):
    cluster.frontend(HERE)
    cluster.worker(HERE, "prefill", *ranks_flags(4), ranks=4)
    cluster.worker(HERE, "decode", *ranks_flags(2), ranks=2)
    cluster.wait_ready(READY_SECONDS)
    assert_as_one(cluster, ask(cluster), one_process)
    cluster.stop()


def newest_epoch(worker):
    return max(map(int, re.findall(r"all 4 ranks step together \(epoch (\d+)", worker.process.log())))


def pid_of(worker, rank):
    """The process of a rank, one of its parent's children."""
    for pid in children_of(worker.process.pid):
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if "--rank" in words and words[words.index("--rank") + 1] == str(rank):
            return pid
    raise AssertionError(f"rank {rank} is not there")


@pytest.mark.parametrize("number, rank",
                         [(signal.SIGKILL, 2), pytest.param(signal.SIGKILL, 0, marks=pytest.mark.long),
                          pytest.param(signal.SIGSTOP, 1, marks=pytest.mark.long)], ids=["kill", "kill of rank 0", "stop"])
def test_a_rank_dies_and_nobody_notices(cluster, one_process, number, rank):
    """Its requests go on at others, those of others go on where they are; it comes back."""
    cluster.frontend(HERE)
    worker = cluster.worker(HERE, "null", *ranks_flags(4, "--ep-num-redundant-experts", "8"), ranks=4)
    cluster.wait_ready(READY_SECONDS)
    whole = newest_epoch(worker)
    victim = pid_of(worker, rank)
    done = []
    asking = threading.Thread(target=lambda: done.append(ask(cluster)))
    asking.start()
    wait_for(lambda: sum(cluster.frontends[0].metrics()["proa:generation_tokens_total"].values()) > 100, 30, "tokens flow")
    os.kill(victim, number)
    asking.join(120)
    assert not asking.is_alive()
    assert_as_one(cluster, done[0], one_process)
    assert re.search(rf"3 of 4 ranks step together.*without {rank}", worker.process.log())
    if number == signal.SIGSTOP:
        os.kill(victim, signal.SIGCONT)
    cluster.wait_ready(READY_SECONDS)
    wait_for(lambda: newest_epoch(worker) > whole, 30,
             "the rank is back")
    assert_as_one(cluster, ask(cluster), one_process)
    cluster.stop()


LONG_ANSWER = {"prompt": [5] * 40, "max_tokens": 250, "temperature": 0, "ignore_eos": True, "stream": True}


def streamed_tokens(url, body, started):
    """How many tokens come, and why the stream ends; `started` is set at the first."""
    count, reason = 0, None
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                choice = json.loads(line[6:])["choices"][0]
                count += bool(choice["text"])
                reason = choice["finish_reason"] or reason
                started.set()
    return count, reason


def test_idle_ranks_stay_for_those_with_requests(cluster, one_process):
    """The parent is told to end while one rank has a request: the others, with nothing to do, stay until it is answered; nobody has to take
    over their experts."""
    cluster.frontend(HERE)
    worker = cluster.worker(HERE, "null", *ranks_flags(4, "--ep-num-redundant-experts", "8", "--shutdown-timeout", "90"), ranks=4)
    cluster.wait_ready(READY_SECONDS)
    started, ends = threading.Event(), []
    asking = threading.Thread(target=lambda: ends.append(streamed_tokens(cluster.frontends[0].url, LONG_ANSWER, started)))
    asking.start()
    assert started.wait(60)
    before = len(worker.process.log())
    worker.process.kill(signal.SIGTERM)
    asking.join(120)
    assert ends and ends[0][1] == "length", ends
    assert worker.process.wait(30) == 0
    ended = worker.process.log()[before:]
    assert "stopping 4 ranks" in ended and "broken off" not in ended and "ranks step together" not in ended, ended
    cluster.stop()


def test_flags_that_do_not_fit(run):
    for flags, words in {
        ("--tp-size", "4", "--dp-size", "4"): "--enable-dp-attention",
        ("--tp-size", "4", "--dp-size", "2", "--enable-dp-attention", "--enable-two-batch-overlap"): "do not go together yet",
        ("--tp-size", "8"): "4 attention heads do not divide among the 8 ranks",
        ("--tp-size", "3", "--dp-size", "3", "--enable-dp-attention"): "1 redundant ones would",
        ("--tp-size", "4", "--dp-size", "3", "--enable-dp-attention"): "multiple",
        ("--tp-size", "4", "--nnodes", "2"): "--dist-init-addr",
    }.items():
        got = run("worker", *flags, "--rank-restart", "off")
        assert got.returncode != 0 and words in got.stderr, (flags, got.stderr)
