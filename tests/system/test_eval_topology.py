"""tiny-r1's 1,000 questions, asked of workers of every shape: each answer is that of one process, letter by letter.

With -s, it prints a row for each shape: seconds, tokens a second, right answers, equal answers.
"""
import json

import pytest

from cluster import TINY, Cluster, Settings
from places import Loopback
from test_wide import ranks_flags
from topology import HOSTS, GuideCluster

pytestmark = pytest.mark.long
HERE = Loopback()
QUESTIONS, RIGHT = 1000, 999
SECONDS = 1500  # for all questions, on a loaded machine of two cores
AT_ONCE = 256
COPIES = ("--ep-num-redundant-experts", "16", "--ep-dispatch-algorithm", "dynamic")
OVERLAP = ("--enable-two-batch-overlap",)
LOW_LATENCY = ("--deepep-mode", "low_latency")
COMBINED = {
    "1 rank": (1,),
    "2 ranks": (2,),
    "4 ranks": (4,),
    "4 ranks, 16 copies, dynamic, overlap": (4, *COPIES, *OVERLAP),
    "8 ranks": (8,),
    "8 ranks, 16 copies, dynamic": (8, *COPIES),
    "8 ranks, low_latency": (8, *LOW_LATENCY),
    "8 ranks, low_latency, 16 copies, dynamic, overlap": (8, *LOW_LATENCY, *COPIES, *OVERLAP),
}


@pytest.fixture(scope="module")
def expected(proa, tmp_path_factory):
    """Of `proa eval` alone, which runs the model itself."""
    folder = tmp_path_factory.mktemp("eval")
    return ask(HERE, folder, [proa, "eval", "--threads", "2"])


def ask(place, folder, command):
    """({question: output}, the summary)."""
    output, summary = folder / "output.jsonl", folder / "summary.json"
    process = place.popen("eval", [*command, "--output", output, "--json", summary], folder / "eval.log")
    try:
        assert process.wait(SECONDS) == 0, process.log_tail()
    finally:
        process.end()
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    return {row["id"]: row["output"] for row in rows}, json.loads(summary.read_text())


def assert_as_one(name, cluster, place, folder, expected):
    url = cluster.frontends[0].url
    outputs, summary = ask(place, folder, [cluster.program, "eval", "--url", url, "--concurrency", str(AT_ONCE)])
    equal = sum(output == expected[0][number] for number, output in outputs.items())
    print(f"\n| {name} | {summary['seconds']:.0f} | {summary['tokens_per_second']:.0f} | {summary['right']} | {equal} |")
    assert len(outputs) == len(expected[0]) == equal == QUESTIONS
    assert summary["right"] == expected[1]["right"] == RIGHT
    cluster.stop()


@pytest.mark.parametrize("shape", COMBINED)
def test_combined(proa, tmp_path, expected, shape):
    ranks, *flags = COMBINED[shape]
    with Cluster(proa, tmp_path, Settings()) as cluster:
        cluster.frontend(HERE)
        cluster.worker(HERE, "null", *ranks_flags(ranks, *flags), ranks=ranks)
        cluster.wait_ready()
        assert_as_one(shape, cluster, HERE, tmp_path, expected)


def test_prefill_and_decode_of_different_width(proa, tmp_path, expected):
    with Cluster(proa, tmp_path, Settings()) as cluster:
        cluster.frontend(HERE)
        cluster.worker(HERE, "prefill", *ranks_flags(4), ranks=4)
        cluster.worker(HERE, "decode", *ranks_flags(8, *LOW_LATENCY, *COPIES), ranks=8)
        cluster.wait_ready()
        assert_as_one("prefill 4 ranks; decode 8, low_latency, 16 copies, dynamic", cluster, HERE, tmp_path, expected)


@pytest.mark.parametrize("ranks", [8, 32])
def test_the_guides_topology(proa, tmp_path, lab, expected, ranks):
    """With all that the H100 guide's flags turn on; over 32 + 32 ranks a rank has one expert and one copy."""
    changes = {"--tp-size": ranks, "--dp-size": ranks}
    with GuideCluster(proa, tmp_path, lab(HOSTS, seconds=2 * SECONDS), TINY, changes) as cluster:
        cluster.start()
        assert_as_one(f"H100 guide's flags, {ranks} + {ranks} ranks on 4 + 4 hosts", cluster, cluster.lab.host(0), tmp_path, expected)
