"""tiny-r1: its answers are right, are those of the PyTorch model that it was trained as, and do not move with any flag."""
import json
import pathlib

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
REFERENCE = TOP / "tests/data/tiny-r1-reference.jsonl"


def lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


@pytest.fixture
def evaluate(run, tmp_path):
    """evaluate(flags...) -> the output of each question, by id, and the summary."""

    def ask(*flags):
        output, summary = tmp_path / "output.jsonl", tmp_path / "summary.json"
        result = run("eval", "--output", output, "--json", summary, *flags, timeout=600)
        assert result.returncode == 0, result.stderr
        return {row["id"]: row for row in lines(output)}, json.loads(summary.read_text())

    return ask


def test_bundled_model_answers(evaluate):
    """At least 99.5 % right, within 0.3 points of the training script's own evaluation on the same questions, and the
    same outputs as PyTorch's float32 arithmetic on all but 1 %."""
    rows, summary = evaluate()
    reference = lines(REFERENCE)
    assert summary["questions"] == len(reference) == 1000
    assert summary["accuracy"] >= 0.995
    assert abs(summary["accuracy"] - sum(r["ok"] for r in reference) / 1000) <= 0.003
    assert sum(rows[r["id"]]["output"] == r["output"] for r in reference) >= 990


def test_exact_mode_writes_what_pytorch_writes(evaluate):
    rows, _ = evaluate("--activation-dtype", "float32", "--limit", 300)
    reference = lines(REFERENCE)[:300]
    assert [rows[r["id"]]["output"] for r in reference] == [r["output"] for r in reference]


FLAGS = [
    ("--max-running-requests", 1, "--limit", 40),
    ("--max-running-requests", 7, "--max-total-tokens", 1024, "--max-new-tokens", 400),  # retracts
    ("--chunked-prefill-size", 16),
    ("--chunked-prefill-size", 4096, "--page-size", 64),
    ("--disable-radix-cache",),
    ("--threads", 1),
    ("--schedule-policy", "lpm", "--chunked-prefill-size", 64),
]


def test_no_flag_moves_an_answer(evaluate):
    base, _ = evaluate("--limit", 120, "--threads", 2)
    for flags in FLAGS:
        rows, _ = evaluate("--limit", 120, *flags)
        different = [i for i, row in rows.items() if row["output"] != base[i]["output"]]
        assert not different, f"{flags}: questions {different}"


@pytest.mark.parametrize("precision,least", [("float32", 500), ("auto", 495)])
def test_published_reference(evaluate, data, precision, least):
    """Another training run's checkpoint, with every second output of its float32 reference."""
    model = data("models/tiny-r1")
    rows, summary = evaluate("--model-path", model, "--activation-dtype", precision)
    reference = lines(data("models/tiny-r1-reference.jsonl"))
    same = sum(rows[r["id"]]["output"] == r["output"] for r in reference)
    assert len(reference) == 500
    assert same >= least
    assert summary["accuracy"] >= 0.995


def test_bad_questions_are_named(run, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "1+1", "answer": "2"}\n{"question": 3}\n')
    result = run("eval", "--questions", bad)
    assert result.returncode == 1
    assert f"{bad} line 2" in result.stderr
    assert "question" in result.stderr
