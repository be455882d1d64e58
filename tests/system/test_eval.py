"""tiny-r1: its answers are right, are those of the PyTorch model that it was trained as, and do not move with any flag."""
import http.server
import json
import pathlib
import threading

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


@pytest.mark.cpu("float32 activations, which a GPU does not have")
def test_exact_mode_writes_what_pytorch_writes(evaluate):
    rows, _ = evaluate("--activation-dtype", "float32", "--limit", 300)
    reference = lines(REFERENCE)[:300]
    assert [rows[r["id"]]["output"] for r in reference] == [r["output"] for r in reference]


def test_an_fp8_cache_answers_as_well(evaluate):
    """Measured over all 1,000: 999 right with either."""
    rows, summary = evaluate("--limit", 200, "--kv-cache-dtype", "fp8_e4m3")
    assert len(rows) == 200 and summary["accuracy"] >= 0.985


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


@pytest.mark.parametrize("precision,least", [
    pytest.param("float32", 500, marks=pytest.mark.cpu("float32 activations, which a GPU does not have")), ("auto", 495)])
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


# ---- the same questions over HTTP ----


def test_url_gives_the_same_answers(evaluate, server):
    here, summary = evaluate("--limit", 120)
    for concurrency in 1, 16:
        there, remote = evaluate("--limit", 120, "--url", server().url + "/", "--concurrency", concurrency)
        assert there == here  # outputs, answers and token counts
        drop = "seconds", "tokens_per_second"
        assert {k: v for k, v in remote.items() if k not in drop} == {k: v for k, v in summary.items() if k not in drop}
    assert remote["errors"] == 0


def test_url_sends_the_key(run, server):
    url = server("--api-key", "secret").url
    refused = run("eval", "--limit", 1, "--url", url)
    assert refused.returncode != 0
    assert "--api-key" in refused.stderr
    assert run("eval", "--limit", 1, "--url", url, "--api-key", "secret").returncode == 0
    assert run("eval", "--limit", 1, "--url", url, PROA_API_KEY="secret").returncode == 0


class Flaky(http.server.BaseHTTPRequestHandler):
    """Answers the third question with 503, cuts the fourth one's answer, answers the fifth with nonsense."""

    protocol_version = "HTTP/1.1"

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.reply(200, json.dumps({"data": [{"id": "m"}]}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["model"] == "m" and body["temperature"] == 0
        self.server.asked += 1
        question = body["messages"][0]["content"]
        if question == "q2":
            self.reply(503, b'{"error": {"message": "no worker is there"}}')
        elif question == "q3":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True
        elif question == "q4":
            self.reply(200, b'{"choices": []}')
        else:
            message = {"reasoning_content": "hm", "content": "\n\nyes"}
            self.reply(200, json.dumps({"choices": [{"message": message, "finish_reason": "stop"}],
                                        "usage": {"completion_tokens": 3}}).encode())

    def log_message(self, *_):
        pass


def test_url_counts_errors(run, tmp_path):
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps({"question": f"q{i}", "answer": "yes"}) + "\n" for i in range(6)))
    summary, output = tmp_path / "summary.json", tmp_path / "output.jsonl"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flaky) as fake:
        fake.asked = 0
        threading.Thread(target=fake.serve_forever, daemon=True).start()
        result = run("eval", "--questions", questions, "--url", f"http://127.0.0.1:{fake.server_port}",
                     "--json", summary, "--output", output, "--concurrency", 2)
        fake.shutdown()
    assert result.returncode == 1
    assert fake.asked == 6  # none twice
    totals = json.loads(summary.read_text())
    assert (totals["questions"], totals["right"], totals["errors"], totals["tokens"]) == (6, 3, 3, 6)
    assert [row["ok"] for row in lines(output)] == [True, True, False, False, False, True]
    assert lines(output)[0]["output"] == "hm</think>\n\nyes"
    assert "3 without an answer" in result.stdout
    assert "3 of 6" in result.stderr


def test_url_without_a_server(run):
    result = run("eval", "--limit", 1, "--url", "http://127.0.0.1:1")
    assert result.returncode == 1
    assert "127.0.0.1:1" in result.stderr
    malformed = run("eval", "--limit", 1, "--url", "ftp://x")
    assert malformed.returncode != 0 and "ftp" in malformed.stderr
