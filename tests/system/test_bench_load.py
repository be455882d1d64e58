"""`proa bench load`: counts what a server answers, and fails when an answer is not whole."""
import json

import pytest


def test_counts(run, server, tmp_path):
    url = server("--load-format", "proof", "--max-total-tokens", "65536").url
    done = run("bench", "load", "--url", url, "--num-prompts", "60", "--max-concurrency", "7", "--random-input-len", "33",
               "--random-output-len", "9", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    out = json.loads((tmp_path / "out.json").read_text())
    assert out["errors"] == 0 and out["tokens_per_second"] == pytest.approx(9 * out["requests_per_second"])
    assert 0 < out["ttft"]["p50_ms"] <= out["latency"]["p50_ms"]


def test_answers_that_are_not_whole_are_errors(run, server):
    url = server("--load-format", "proof", "--max-total-tokens", "65536", "--context-length", "64").url
    done = run("bench", "load", "--url", url, "--num-prompts", "20", "--random-input-len", "60", "--random-output-len", "9")
    assert done.returncode == 1 and "16 requests failed" in done.stderr


def test_no_url(run):
    done = run("bench", "load")
    assert done.returncode == 1 and "--url" in done.stderr
