"""The H100 guide's whole topology: two workers of 32 ranks on four hosts each, 256 experts and 32 copies, with its flags as they stand; and
tiny-r1 over 8 + 8 ranks. Every token and every log probability is that of one process of one rank, in both modes of the all-to-all, with
and without two-batch overlap, with copies chosen either way, before and after experts have moved."""
import itertools
import os
import re

import pytest

import mixed
from cluster import TINY, Cluster, Settings, wait_for
from places import Loopback
from topology import HOSTS, GuideCluster, make_wide_model

pytestmark = pytest.mark.long
HERE = Loopback()
LAB_SECONDS = 1200
WIDE_RANK_BYTES = 100 << 20  # 64 of them, so that they fit a small machine
TINY_RANKS = {"--tp-size": 8, "--dp-size": 8, "--ep-num-redundant-experts": 8}
GUIDE = {}  # prefill: normal, dynamic, two halves; decode: low_latency, static, two halves


def variant(mode, dispatch, overlap):
    """Flags of both workers that change what the guide says."""
    return {"--deepep-mode": mode, "--ep-dispatch-algorithm": dispatch, "--enable-two-batch-overlap": "" if overlap else None}


def name_of(mode, dispatch, overlap):
    return f"{mode}-{dispatch}{'-overlap' if overlap else ''}"


ALL = {name_of(*v): variant(*v) for v in itertools.product(("normal", "low_latency"), ("static", "dynamic"), (False, True))}
WIDE = ("normal-static", "low_latency-dynamic", "low_latency-dynamic-overlap")


REBALANCE = {"--enable-eplb": "", "--eplb-rebalance-num-iterations": 20, "--eplb-rebalance-layers-per-chunk": 1}


def answers_of_one(proa, folder, model, load_format, requests):
    """Of one process of one rank."""
    folder.mkdir()
    with Cluster(proa, folder, Settings(model=model, load_format=load_format)) as alone:
        alone.frontend(HERE)
        alone.worker(HERE, "null")
        alone.wait_ready()
        answers = mixed.ask_from(HERE, folder / "mixed.log", alone.frontends[0].url, requests)
        alone.stop()
    return answers


@pytest.fixture(scope="module")
def wide(proa, tmp_path_factory):
    """(folder of the model, requests, answers of one process)"""
    folder = tmp_path_factory.mktemp("wide")
    model, requests = make_wide_model(folder / "model"), mixed.draw_requests(12, seed=7)
    return model, requests, answers_of_one(proa, folder / "one", model, "dummy", requests)


@pytest.fixture(scope="module")
def tiny(proa, tmp_path_factory):
    requests = mixed.draw_requests(30, seed=8)
    return TINY, requests, answers_of_one(proa, tmp_path_factory.mktemp("tiny") / "one", TINY, "auto", requests)


def serve(cluster, requests, expected, ranks):
    cluster.start()
    resident = cluster.resident_bytes()
    assert len(resident) == 2 * ranks
    answers = cluster.ask(requests)
    assert not mixed.differences(answers, expected, requests)
    wait_for(lambda: not cluster.leftovers(), 10, "nothing is left over")
    print(f"{2 * ranks} ranks on {os.cpu_count()} cores: ready after {cluster.ready_seconds:.1f} s, "
          f"{max(resident) / 1e6:.0f} MB each at most; {cluster.tokens_a_second():.1f} tokens/s")
    cluster.stop()
    return resident


def serve_while_experts_move(cluster, requests, expected):
    """Asks until both workers have moved experts twice, and once more."""
    cluster.start()
    rounds = 0
    while min(plans(cluster, mode) for mode in ("prefill", "decode")) < 2:
        rounds += 1
        assert rounds <= 8, "experts have not moved"
        assert not mixed.differences(cluster.ask(requests), expected, requests)
    assert not mixed.differences(cluster.ask(requests), expected, requests)
    print(f"{rounds + 1} rounds, {plans(cluster, 'prefill')} and {plans(cluster, 'decode')} plans carried out")
    cluster.stop()


def plans(cluster, mode):
    """That the worker has carried out, as its nodes say."""
    versions = {v for w in cluster.workers if w.mode == mode for v in re.findall(r"rebalanced .*\(version (\d+)\)", w.process.log())}
    return len(versions)


@pytest.mark.parametrize("changes", [GUIDE, *(ALL[name] for name in WIDE)], ids=["guide", *WIDE])
def test_64_ranks(proa, tmp_path, lab, wide, changes):
    model, requests, expected = wide
    with GuideCluster(proa, tmp_path, lab(HOSTS, seconds=LAB_SECONDS), model, changes) as cluster:
        assert max(serve(cluster, requests, expected, 32)) < WIDE_RANK_BYTES


@pytest.mark.parametrize("changes", [GUIDE, *ALL.values()], ids=["guide", *ALL])
def test_tiny_r1_over_16_ranks(proa, tmp_path, lab, tiny, changes):
    model, requests, expected = tiny
    with GuideCluster(proa, tmp_path, lab(HOSTS), model, TINY_RANKS | changes) as cluster:
        serve(cluster, requests, expected, 8)


@pytest.mark.parametrize("ranks", [8, 32])
def test_experts_move(proa, tmp_path, lab, request, ranks):
    """The guide's flags, and experts that move every 20 steps."""
    model, requests, expected = request.getfixturevalue("tiny" if ranks == 8 else "wide")
    changes = REBALANCE | (TINY_RANKS if ranks == 8 else {})
    with GuideCluster(proa, tmp_path, lab(HOSTS, seconds=LAB_SECONDS), model, changes) as cluster:
        serve_while_experts_move(cluster, requests, expected)
