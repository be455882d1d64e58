"""Experts that move between the ranks of a worker while requests run: every answer is that of one process, bit for bit."""
import asyncio
import json
import os
import re
import signal
import threading

import pytest

import mixed
from cluster import Cluster, Settings, wait_for
from places import Loopback, children_of

HERE = Loopback()
MIXED = mixed.draw_requests(24, seed=11)
READY_SECONDS = 60
RANKS = 4
FLAGS = ("--tp-size", str(RANKS), "--dp-size", str(RANKS), "--enable-dp-attention", "--port", "0", "--disaggregation-bootstrap-port", "0",
         "--ep-num-redundant-experts", "8")
EPLB = ("--enable-eplb", "--eplb-rebalance-num-iterations", "20", "--eplb-rebalance-layers-per-chunk", "1")


@pytest.fixture(scope="module")
def one_process(server):
    running = server("--threads", 1)
    return asyncio.run(mixed.ask_all(running.url, MIXED))


@pytest.fixture
def cluster(proa, tmp_path):
    with Cluster(proa, tmp_path, Settings(worker_flags=("--threads", "1", "--max-total-tokens", "16384"))) as one:
        one.frontend(HERE)
        yield one


def ask(cluster):
    return asyncio.run(mixed.ask_all(cluster.frontends[0].url, MIXED))


def plans(worker):
    """(layers, utilisation before, after, version) of each plan that was carried out."""
    found = re.findall(r"rebalanced (\d+) layers: utilisation ([\d.]+) % -> ([\d.]+) % \(version (\d+)\)", worker.process.log())
    return [(int(layers), float(before), float(after), int(version)) for layers, before, after, version in found]


@pytest.mark.parametrize("dispatch", ["static", pytest.param("dynamic", marks=pytest.mark.long)])
def test_experts_move_and_nobody_notices(cluster, one_process, dispatch):
    worker = cluster.worker(HERE, "null", *FLAGS, *EPLB, "--ep-dispatch-algorithm", dispatch, ranks=RANKS)
    cluster.wait_ready(READY_SECONDS)
    for _ in range(2):
        assert not mixed.differences(ask(cluster), one_process, MIXED)
    done = plans(worker)
    assert len(done) >= 3, worker.process.log_tail()
    for layers, before, after, _ in done:
        assert layers >= 1 and after > before
    assert done[0][1] < 90 < done[0][2], "copies of the first experts alone leave much to gain"
    cluster.stop()


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 2])
def test_a_rank_dies_while_experts_move(cluster, one_process, victim):
    worker = cluster.worker(HERE, "null", *FLAGS, *EPLB, ranks=RANKS)
    cluster.wait_ready(READY_SECONDS)
    done = []
    asking = threading.Thread(target=lambda: done.append(ask(cluster)))
    asking.start()
    wait_for(lambda: plans(worker), 60, "experts have moved")
    os.kill(children_of(worker.process.pid)[victim], signal.SIGKILL)
    asking.join(120)
    assert not asking.is_alive()
    assert not mixed.differences(done[0], one_process, MIXED)
    cluster.wait_ready(READY_SECONDS)
    before = len(plans(worker))
    assert not mixed.differences(ask(cluster), one_process, MIXED)
    assert len(plans(worker)) > before
    cluster.stop()


def test_a_given_placement(cluster, one_process, tmp_path):
    """Any placement gives the same tokens; a rank that was given another one is not taken."""
    given = tmp_path / "placement.json"
    row = [(7 * slot + 3) % 32 for slot in range(40)]
    given.write_text(json.dumps({"physical_to_logical_map": [row] * 3}))
    cluster.worker(HERE, "null", *FLAGS, "--init-expert-location", str(given), ranks=RANKS)
    cluster.wait_ready(READY_SECONDS)
    assert not mixed.differences(ask(cluster), one_process, MIXED)
    cluster.stop()


@pytest.mark.long
def test_what_is_recorded_can_be_served_by(cluster, one_process, run, tmp_path):
    """One file for all ranks; the planner reads it, and workers place by it."""
    flags = ("--expert-distribution-recorder-mode", "stat", "--expert-distribution-recorder-dir", str(tmp_path))
    worker = cluster.worker(HERE, "null", *FLAGS, *flags, ranks=RANKS)
    cluster.wait_ready(READY_SECONDS)

    def tell(action):
        answer = HERE.get(f"{cluster.frontends[0].url}/{action}_expert_distribution_record")
        assert answer.status_code == 200, answer.text

    def dumped():
        return sorted(tmp_path.glob("expert_distribution_recorder_*.json"))

    def counts(file):
        return json.loads(file.read_text())["logical_count"]

    ask(cluster)
    tell("dump")  # nothing was recorded
    first, = wait_for(dumped, 20, "a record is written")
    assert not any(map(any, counts(first)))
    tell("start")
    assert not mixed.differences(ask(cluster), one_process, MIXED)
    tell("stop")
    ask(cluster)
    tell("dump")
    second = wait_for(lambda: dumped()[1:], 20, "another one is written")[0]
    layers = counts(second)
    assert len(layers) == 5 and not any(layers[0]) and not any(layers[1])
    total = sum(layers[2])
    assert total > 1000 and total % 4 == 0 and sum(layers[3]) == sum(layers[4]) == total, "each token has 4 experts a layer"
    assert "at 4 of 4 ranks" in worker.process.log()
    plan = tmp_path / "plan.json"
    got = run("eplb", "--expert-load", str(second), "--ep-size", "4", "--ep-num-redundant-experts", "8", "--output", str(plan))
    assert got.returncode == 0, got.stderr
    cluster.workers[0].stop()
    cluster.worker(HERE, "null", *FLAGS, "--init-expert-location", str(plan), ranks=RANKS)
    cluster.wait_ready(READY_SECONDS)
    assert not mixed.differences(ask(cluster), one_process, MIXED)
    cluster.stop()


def test_placements_must_be_equal(proa, tmp_path):
    address = f"127.0.0.1:{HERE.free_port()}"
    shared = ("--nnodes", "2", "--dist-init-addr", address, "--rank-restart", "off")
    load = {"logical_count": [[1 + expert for expert in range(32)]] * 3}
    with Cluster(proa, tmp_path, Settings(worker_flags=("--threads", "1", "--max-total-tokens", "16384"))) as cluster:
        cluster.worker(HERE, "null", *FLAGS, *shared, "--node-rank", "0", ranks=2)
        other = cluster.worker(HERE, "null", *FLAGS, *shared, "--node-rank", "1", "--init-expert-location", json.dumps(load), ranks=2)
        wait_for(lambda: not other.alive, 30, "the second node is refused")
        assert "digest of --init-expert-location" in other.process.log()


def test_flags_that_do_not_fit(run):
    shared = ("--tp-size", "4", "--dp-size", "4", "--enable-dp-attention", "--rank-restart", "off")
    for flags, words in {
        ("--init-expert-location", "/nowhere.json"): "/nowhere.json",
        ("--init-expert-location", '{"physical_to_logical_map": [[0, 1]]}'): "--init-expert-location",
        ("--enable-eplb", "--eplb-rebalance-num-iterations", "10", "--expert-distribution-recorder-buffer-size", "11"):
            "--eplb-rebalance-num-iterations 10",
        ("--expert-distribution-recorder-mode", "stat", "--expert-distribution-recorder-dir", "/nowhere"):
            "--expert-distribution-recorder-dir /nowhere: No such file or directory",
        ("--expert-distribution-recorder-mode", "stat", "--expert-distribution-recorder-dir", "/dev/null"):
            "--expert-distribution-recorder-dir /dev/null: Not a directory",
        ("--cluster-key-file", "/nowhere"): "the cluster key: cannot open /nowhere",
        ("--deepep-config", "/nowhere.json"): "--deepep-config: cannot open /nowhere.json",
    }.items():
        got = run("worker", *shared, *flags)
        assert got.returncode != 0 and words in got.stderr, (flags, got.stderr)
