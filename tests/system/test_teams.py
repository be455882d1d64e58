"""Workers whose ranks share the heads of attention (tp-size over dp-size ranks a team) beside the experts: every answer is that of one process,
bit for bit, whatever happens to a rank. Frontends see the first rank of each team."""
import asyncio
import os
import re
import signal
import threading

import pytest

import mixed
from cluster import Cluster, Settings, wait_for
from places import Loopback
from test_wide import ANY_PORT, HERE, READY_SECONDS, assert_as_one, ask, pid_of

MIXED = mixed.draw_requests(20, seed=5)


@pytest.fixture(scope="module")
def one_process(server):
    running = server("--threads", 1)
    return asyncio.run(mixed.ask_all(running.url, MIXED))


@pytest.fixture
def cluster(proa, tmp_path):
    with Cluster(proa, tmp_path, Settings(worker_flags=("--threads", "1", "--max-total-tokens", "16384"))) as one:
        yield one


def teams_flags(tp, dp, *more):
    data_parallel = ("--dp-size", str(dp), "--enable-dp-attention") if dp > 1 else ()
    return ("--tp-size", str(tp), *data_parallel, *ANY_PORT, *more)


def teams(cluster, mode, tp, dp, *more):
    return cluster.worker(HERE, mode, *teams_flags(tp, dp, *more), ranks=dp)


@pytest.mark.parametrize("tp, dp", [(2, 1), (4, 2)])
def test_teams_answer_as_one_process(cluster, one_process, tp, dp):
    cluster.frontend(HERE)
    worker = teams(cluster, "null", tp, dp, "--enable-dp-lm-head", "--ep-num-redundant-experts", "8")
    cluster.wait_ready(READY_SECONDS)
    assert_as_one(cluster, ask(cluster), one_process)
    assert_as_one(cluster, ask(cluster), one_process)  # from the prefix cache
    assert worker.process.log().count("computes attention heads for the requests of rank") == tp - dp
    cluster.stop()


@pytest.mark.long
def test_teams_of_two_nodes(cluster, one_process):
    """A team may lie on two nodes; without --max-total-tokens each rank plans its cache by itself."""
    cluster.settings.worker_flags = ("--threads", "1")
    address = f"127.0.0.1:{HERE.free_port()}"
    cluster.frontend(HERE)
    flags = teams_flags(4, 1, "--nnodes", "2", "--dist-init-addr", address)
    cluster.worker(HERE, "null", *flags, "--node-rank", "0", ranks=1)
    cluster.worker(HERE, "null", *flags, "--node-rank", "1", ranks=0)
    cluster.wait_ready(READY_SECONDS)
    assert_as_one(cluster, ask(cluster), one_process)
    cluster.stop()


@pytest.mark.long
@pytest.mark.parametrize("prefill, decode", [((4, 2), (4, 4)), ((4, 4), (4, 2)), ((2, 1), (4, 1))])
def test_prefill_and_decode_with_different_teams(cluster, one_process, prefill, decode):
    cluster.frontend(HERE)
    teams(cluster, "prefill", *prefill)
    teams(cluster, "decode", *decode)
    cluster.wait_ready(READY_SECONDS)
    assert_as_one(cluster, ask(cluster), one_process)
    cluster.stop()


def newest_epoch(worker):
    return max(map(int, re.findall(r"all 4 ranks step together \(epoch (\d+)", worker.process.log())))


@pytest.mark.parametrize("victim", [1, pytest.param(2, marks=pytest.mark.long)], ids=["follower", "leader"])
def test_a_rank_of_a_team_dies_and_nobody_notices(cluster, one_process, victim):
    """The requests of its team go on at the other one; it comes back, and its team takes requests again."""
    cluster.frontend(HERE)
    worker = teams(cluster, "null", 4, 2, "--ep-num-redundant-experts", "8")
    cluster.wait_ready(READY_SECONDS)
    whole, done = newest_epoch(worker), []
    pid = pid_of(worker, victim)
    asking = threading.Thread(target=lambda: done.append(ask(cluster)))
    asking.start()
    wait_for(lambda: sum(cluster.frontends[0].metrics()["proa:generation_tokens_total"].values()) > 100, 30, "tokens flow")
    os.kill(pid, signal.SIGKILL)
    asking.join(120)
    assert not asking.is_alive()
    assert_as_one(cluster, done[0], one_process)
    assert re.search(rf"3 of 4 ranks step together.*without {victim}", worker.process.log())
    if victim % 2 == 1:
        assert "takes no requests until they are" in worker.process.log()
    wait_for(lambda: newest_epoch(worker) > whole, 30, "the rank is back")
    cluster.wait_ready(READY_SECONDS)
    assert_as_one(cluster, ask(cluster), one_process)
    cluster.stop()
