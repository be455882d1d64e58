"""`--device cuda` from end to end where there is no GPU: the program on a GPU in host memory (tests/stand_in)."""
import json

import httpx
import pytest
from conftest import BUILD, TOP

MODEL = TOP / "models/tiny-r1"


@pytest.fixture(scope="module")
def proa():
    """The program with the stand-in, for all fixtures that start it."""
    path = BUILD / "tests/stand_in/proa_stand_in"
    assert path.is_file(), f"{path} is not built: run `make`"
    return path


@pytest.mark.parametrize("model", ["v3-bf16", "v3-fp8"])
def test_logits_agree_with_transformers(run, data, model):
    folder = data(f"golden/{model}")
    result = run("logits", "--model-path", folder, "--input", folder / "expected.safetensors", "--device", "cuda",
                 "--prefix", 32, "--generate", 8, "--compare", timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all within limits" in result.stdout


@pytest.fixture
def evaluate(run, tmp_path):
    """evaluate(flags...) -> the outputs of the first questions, and the share of right answers."""

    def ask(*flags):
        output, summary = tmp_path / "output.jsonl", tmp_path / "summary.json"
        result = run("eval", "--device", "cuda", "--model-path", MODEL, "--limit", 24, "--output", output, "--json", summary,
                     *flags, timeout=300)
        assert result.returncode == 0, result.stderr
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        return [(row["id"], row["output"]) for row in rows], json.loads(summary.read_text())["accuracy"]

    return ask


FLAGS = [
    ("--max-running-requests", 1),
    ("--max-running-requests", 7, "--max-total-tokens", 1024, "--max-new-tokens", 400),  # retracts
    ("--chunked-prefill-size", 16),
    ("--disable-radix-cache", "--disable-cuda-graph"),
    ("--cuda-graph-bs", "3,7"),
]


@pytest.mark.long
def test_no_flag_moves_an_answer(evaluate):
    base, accuracy = evaluate()
    assert accuracy >= 0.95
    for flags in FLAGS:
        assert evaluate(*flags)[0] == base, flags


def test_a_server_answers(server):
    one = server("--device", "cuda", "--model-path", MODEL, "--served-model-name", "tiny")
    reply = httpx.post(f"{one.url}/v1/chat/completions", timeout=60, json={
        "model": "tiny", "temperature": 0, "max_tokens": 200,
        "messages": [{"role": "user", "content": "I wonder, if you subtract 6 from 77, what is left?"}]})
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["content"] == "71"
    assert one.stop() == 0, one.log()


def test_bench_slice_measures_every_op(run, tmp_path):
    result = run("bench", "slice", "--model-path", MODEL, "--shape", "decode 1 at 4096", "--json", tmp_path / "slice.json",
                 timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    ops = {row["op"] for row in json.loads((tmp_path / "slice.json").read_text())["rows"]}
    assert {"step", "MLA decode", "router", "dispatch pack", "experts down", "combine", "LM head"} <= ops
