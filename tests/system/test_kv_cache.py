"""--kv-cache-dtype: what is served and what is refused, in words; an FP8 cache takes fewer bytes; prefill and decode workers with one answer as one
process with one does, and workers that differ refuse each other by name. (test_golden.py has logits, test_determinism.py law 2.)"""
import asyncio
import json
import re
import subprocess

import httpx
import pytest

import mixed
from cluster import Cluster, Settings, wait_for
from conftest import TOP
from places import Loopback

pytestmark = pytest.mark.cpu("prefill and decode apart, ranks, and the exact precision, which a GPU does not have yet")
HERE = Loopback()
MIXED = mixed.draw_requests(20)
FP8 = ("--kv-cache-dtype", "fp8_e4m3")
CACHE = re.compile(r"KV cache ([0-9.]+) MiB \((\d+) blocks of 64 tokens, \d+ tokens, (\w+)\)")

REFUSED = {
    "fp8_e5m2": (("--kv-cache-dtype", "fp8_e5m2"), "give auto, bf16, bfloat16 or fp8_e4m3"),
    "fp4_e2m1": (("--kv-cache-dtype", "fp4_e2m1"), "give auto, bf16, bfloat16 or fp8_e4m3"),
    "fp8, exact": ((*FP8, "--activation-dtype", "float32"), "--kv-cache-dtype fp8_e4m3 with --activation-dtype float32"),
    "bf16, exact": (("--kv-cache-dtype", "bf16", "--activation-dtype", "float32"), "--kv-cache-dtype bf16 with --activation-dtype float32"),
}


@pytest.mark.parametrize("flags,words", REFUSED.values(), ids=REFUSED)
def test_refused(run, flags, words):
    result = run("eval", "--limit", 1, *flags)
    assert result.returncode != 0
    assert words in result.stderr


def cache_line(log):
    match = CACHE.search(log)
    assert match, log
    return float(match[1]) / int(match[2]), match[3]


def test_bytes_and_facts(server):
    """tiny-r1: a row of 128 latents and 32 values of k_pe has 320 bytes in bf16, 128 + 4 + 64 and a pad of 12 in FP8, in 5 layers."""
    for flags, row, name in (((), 320, "bf16"), (("--kv-cache-dtype", "bfloat16"), 320, "bf16"), (FP8, 208, "fp8_e4m3")):
        running = server("--max-total-tokens", 65536, *flags)
        mib, dtype = cache_line(running.log())
        assert dtype == name
        assert abs(mib - row * 64 * 5 / 2**20) < 1e-3
        assert httpx.get(f"{running.url}/get_server_info").json()["kv_cache_dtype"] == name
        running.stop()


@pytest.fixture(scope="module")
def one_process(server):
    running = server("--threads", 1, *FP8)
    return asyncio.run(mixed.ask_all(running.url, MIXED))


def test_another_cache_gives_other_log_probabilities(server, one_process):
    running = server("--threads", 1)
    assert mixed.differences(asyncio.run(mixed.ask_all(running.url, MIXED)), one_process, MIXED)


def start(proa, folder, prefill_flags, decode_flags):
    cluster = Cluster(proa, folder, Settings())
    cluster.worker(HERE, "prefill", *prefill_flags)
    cluster.worker(HERE, "decode", *decode_flags)
    cluster.frontend(HERE)
    return cluster


def test_a_pair_answers_as_one_process(proa, tmp_path, one_process):
    with start(proa, tmp_path, FP8, FP8) as cluster:
        cluster.wait_ready()
        answers = asyncio.run(mixed.ask_all(cluster.frontends[0].url, MIXED))
        assert not mixed.differences(answers, one_process, MIXED)
        cluster.stop()


def test_roles_in_one_process_answer_the_same(server, one_process):
    running = server("--threads", 1, "--prefill-workers", 1, "--decode-workers", 2, *FP8)
    assert not mixed.differences(asyncio.run(mixed.ask_all(running.url, MIXED)), one_process, MIXED)


def test_two_ranks_answer_the_same(proa, tmp_path, one_process):
    """Ranks that share heads bring each other blocks of the cache."""
    with Cluster(proa, tmp_path, Settings()) as cluster:
        cluster.worker(HERE, "null", "--tp-size", "2", *FP8)
        cluster.frontend(HERE)
        cluster.wait_ready(60)
        answers = asyncio.run(mixed.ask_all(cluster.frontends[0].url, MIXED))
        assert not mixed.differences(answers, one_process, MIXED)
        cluster.stop()


def test_a_pair_that_differs_is_refused(proa, tmp_path):
    with start(proa, tmp_path, FP8, ("--kv-cache-dtype", "bf16")) as cluster:
        frontend = cluster.frontends[0]
        wait_for(lambda: "--kv-cache-dtype" in frontend.process.log_tail(), 30, "the frontend names the flag")
        wait_for(lambda: frontend.health().status_code in (200, 503), 30, "the frontend answers")
        answer = frontend.post("/v1/completions", {"model": "x", "prompt": "what is 1+1?", "max_tokens": 4}, timeout=60)
        assert answer.status_code >= 400, answer.text


def test_nodes_that_differ_are_refused(proa, tmp_path):
    """Two nodes of one worker: auto and bf16 are the same, FP8 is not."""
    nodes = ("--tp-size", "2", "--nnodes", "2", "--dist-init-addr", f"127.0.0.1:{HERE.free_port()}")
    with Cluster(proa, tmp_path, Settings()) as cluster:
        cluster.worker(HERE, "null", *nodes, "--node-rank", "0", *FP8)
        other = cluster.worker(HERE, "null", *nodes, "--node-rank", "1", "--kv-cache-dtype", "bf16")
        assert other.process.wait(60) != 0
        assert "--kv-cache-dtype is auto at rank 1 and fp8_e4m3 at rank 0" in other.process.log()


def test_bench_slice_counts_its_bytes(gpu_proa, tmp_path):
    """tiny-r1 has 4 heads in 5 layers: a key has 320 bytes in bf16 and 208 in FP8, queries and outputs stay in bf16."""
    for flags, row, name in (((), 320, "bf16"), (FP8, 208, "fp8_e4m3")):
        path = tmp_path / f"{name}.json"
        done = subprocess.run([gpu_proa, "bench", "slice", "--model-path", TOP / "models/tiny-r1", "--shape", "decode 1 at 4096", "--op",
                               "MLA", "--json", path, *flags], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        result = json.loads(path.read_text())
        assert result["kv_cache_dtype"] == name
        mla = next(r for r in result["rows"] if r["op"] == "MLA decode")
        assert mla["bytes"] == 5 * (4096 * row + 2 * 4 * (2 * 128 + 32))
