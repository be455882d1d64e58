"""`--device cuda` from end to end, where there is no GPU too: the program on a GPU in host memory (tests/stand_in), or on a real one
with PROA_TEST_DEVICE=cuda."""
import json
import pathlib
import time

import httpx
import pytest
from conftest import DEVICE, TOP

MODEL = TOP / "models/tiny-r1"


@pytest.fixture(scope="module")
def proa(gpu_proa):
    """The program with a GPU, for all fixtures that start it."""
    return gpu_proa


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
    ("--single-stream",),
]


@pytest.mark.long
def test_no_flag_moves_an_answer(evaluate):
    base, accuracy = evaluate()
    assert accuracy >= 0.95
    for flags in FLAGS:
        assert evaluate(*flags)[0] == base, flags


def test_what_routers_choose_is_recorded(run, tmp_path):
    """Each token counts once, whatever runs beside it in whichever graph; and it is about what the CPU's routers choose."""
    counts = {}
    for name, flags in {"cuda": (), "cuda alone": ("--max-running-requests", 1), "cuda op by op": ("--disable-cuda-graph",),
                        "cpu": ()}.items():
        path = tmp_path / f"{name}.json"
        result = run("eval", "--device", name.split()[0], "--model-path", MODEL, "--limit", 6, "--disable-radix-cache",
                     "--expert-load", path, *flags, timeout=300)
        assert result.returncode == 0, result.stderr
        counts[name] = json.loads(path.read_text())["logical_count"]
    count = counts["cuda"]
    assert [len(row) for row in count] == [32] * 5
    assert sum(count[0]) == sum(count[1]) == 0
    assert sum(count[2]) == sum(count[3]) == sum(count[4]) > 0
    assert counts["cuda alone"] == counts["cuda op by op"] == count
    for layer in 2, 3, 4:
        assert sum(abs(a - b) for a, b in zip(count[layer], counts["cpu"][layer])) <= sum(count[layer]) // 10


def test_a_server_answers(server):
    one = server("--device", "cuda", "--model-path", MODEL, "--served-model-name", "tiny")
    reply = httpx.post(f"{one.url}/v1/chat/completions", timeout=60, json={
        "model": "tiny", "temperature": 0, "max_tokens": 200,
        "messages": [{"role": "user", "content": "I wonder, if you subtract 6 from 77, what is left?"}]})
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["content"] == "71"
    assert one.stop() == 0, one.log()


def read_trace(path):
    """The spans of a trace, which is whole; they nest and do not overlap on a track."""
    spans = [event for event in json.loads(path.read_text()) if event["ph"] == "X"]
    for track in {s["tid"] for s in spans}:
        around = []  # ends of those that are open, in nanoseconds
        for s in sorted((s for s in spans if s["tid"] == track), key=lambda s: (s["ts"], -s["dur"])):
            start, end = round(1000 * s["ts"]), round(1000 * (s["ts"] + s["dur"]))
            while around and around[-1] <= start:
                around.pop()
            assert not around or end <= around[-1], s
            around.append(end)
    return spans


def check_layers(spans):
    """Each layer's ops are there, on both streams."""
    layers = json.loads((MODEL / "config.json").read_text())
    for layer in range(layers["num_hidden_layers"]):
        names = {s["name"] for s in spans if s.get("args", {}).get("layer") == layer}
        kind = {"dense MLP"} if layer < layers["first_k_dense_replace"] else {
            "router", "dispatch pack", "experts gate, up", "experts down", "shared expert", "combine"}
        assert {"norms", "q_a, kv_a", "kv_a norm, cache", "MLA decode", "o_proj"} | kind <= names, (layer, names)
    assert {"shared expert", "kv_a norm, cache"} <= {s["name"] for s in spans if s["tid"] == 3}


def ask(one, tokens):
    reply = httpx.post(f"{one.url}/v1/completions", timeout=60, json={
        "model": "tiny", "temperature": 0, "max_tokens": tokens, "ignore_eos": True, "prompt": "one two three four five"})
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["text"]


def test_a_server_traces_its_first_steps(server, tmp_path):
    path = tmp_path / "trace.json"
    base = server("--device", "cuda", "--model-path", MODEL, "--served-model-name", "tiny")
    want = ask(base, 20)
    one = server("--device", "cuda", "--model-path", MODEL, "--served-model-name", "tiny", "--trace", path, "--trace-steps", 5,
                 "--trace-start-step", 0)
    assert ask(one, 20) == want
    assert f"5 steps are in {path}" in one.log()
    spans = read_trace(path)
    check_layers(spans)
    steps = [s for s in spans if s["name"] == "step"]
    assert [s["args"]["prefill_rows"] > 0 for s in steps] == [True] + 4 * [False]
    assert [s["args"]["graph"] for s in spans if s["name"] == "forward" and s["tid"] == 2] == [False] + 4 * [True]
    for name in ["schedule", "build inputs", "launch", "wait for the GPU", "sample", "complete", "deliver"]:
        assert len([s for s in spans if s["tid"] == 1 and s["name"] == name]) == 5, name
    assert len([s for s in spans if s["tid"] == 2 and s["name"] == "sampler"]) == 5
    assert one.stop() == 0, one.log()
    assert read_trace(path) == spans  # later steps are not in it


def test_a_profile_of_a_server_that_runs(server, tmp_path):
    folder = tmp_path / "traces"
    (folder / "within").mkdir(parents=True)
    one = server("--device", "cuda", "--model-path", MODEL, "--served-model-name", "tiny", "--trace-dir", folder)

    def start(status, **body):
        reply = httpx.post(f"{one.url}/start_profile", json=body)
        assert reply.status_code == status, reply.text
        return pathlib.Path(reply.text.splitlines()[1]) if status == 200 else reply.json()["error"]

    want = ask(one, 12)
    assert start(400, output_dir="/etc")["param"] == "output_dir"
    assert start(400, output_dir=str(folder / "within/../.."))["param"] == "output_dir"
    assert start(400, num_steps=0)["param"] == "num_steps"
    path = start(200, num_steps=3, output_dir=str(folder / "within"), activities=["CPU", "GPU"], with_stack=False)
    assert path.parent == folder / "within"
    assert str(path) in start(400)["message"]  # one at a time
    assert ask(one, 12) == want
    assert len([s for s in read_trace(path) if s["name"] == "step"]) == 3
    assert httpx.post(f"{one.url}/stop_profile").status_code == 400  # it has ended
    reply = httpx.post(f"{one.url}/start_profile")  # without a body: until it is stopped
    assert reply.status_code == 200 and ask(one, 4) == want[:len(ask(one, 4))]
    assert httpx.post(f"{one.url}/stop_profile").status_code == 200
    check_layers(read_trace(pathlib.Path(reply.text.splitlines()[1])))


def test_the_cpu_shows_what_its_thread_does(server, tmp_path):
    path = tmp_path / "trace.json"
    one = server("--device", "cpu", "--model-path", MODEL, "--served-model-name", "tiny", "--trace", path)
    ask(one, 6)  # steps 3 to 6 of twenty
    deadline = time.monotonic() + 30
    while path.read_text().count('"name":"step"') < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    one.process.kill()
    one.process.wait()
    text = path.read_text()
    assert not text.endswith("]\n")  # and it opens all the same
    started_again = server("--device", "cpu", "--model-path", MODEL, "--served-model-name", "tiny", "--trace", path)
    assert started_again is not one
    kept = tmp_path / "trace.1.json"  # what led to the end is still there
    assert kept.read_text() == text and path.read_text().count('"name":"step"') == 0
    kept.write_text(text + "]")
    spans = read_trace(kept)
    assert {"step", "schedule", "build inputs", "forward", "sample", "complete", "deliver"} == {s["name"] for s in spans}
    assert len([s for s in spans if s["name"] == "step"]) == 4


def test_bench_slice_measures_every_op(run, tmp_path):
    result = run("bench", "slice", "--model-path", MODEL, "--shape", "decode 1 at 4096", "--json", tmp_path / "slice.json",
                 "--svg", tmp_path / "slice.svg", "--trace", tmp_path / "trace.json", timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "; on one stream" in result.stdout
    spans = read_trace(tmp_path / "trace.json")
    check_layers(spans)
    assert [s["args"]["shape"] for s in spans if s["name"] == "step"] == ["decode 1 at 4096"]
    ops = {row["op"] for row in json.loads((tmp_path / "slice.json").read_text())["rows"]}
    assert {"step", "MLA decode", "router", "dispatch pack", "experts down", "combine", "LM head"} <= ops
    again = tmp_path / "again.svg"  # the JSON has all that the picture needs
    assert run("bench", "slice", "--from-json", tmp_path / "slice.json", "--svg", again).returncode == 0
    assert again.read_text() == (tmp_path / "slice.svg").read_text()


def tabulate(run, path, shape):
    result = run("bench", "slice", "--model-path", MODEL, "--table", "--shape", shape, "--json", path, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout, json.loads(path.read_text())


def test_bench_slice_tabulates_decode_steps(run, tmp_path):
    text, found = tabulate(run, tmp_path / "table.json", "decode 1 at")
    assert [(row["sequences"], row["context"], row["fits"]) for row in found["table"]] == [
        (1, context, True) for context in (1024, 2048, 4096, 8192)]
    steps = {row["shape"]: row["time_us"] for row in found["rows"] if row["op"] == "step"}
    for row in found["table"]:
        us = steps[f"decode 1 at {row['context']}"]
        assert row["step_ms"] == pytest.approx(us / 1e3) and row["tokens_per_second"] == pytest.approx(1e6 / us)
        assert f"{row['step_ms']:.2f}" in text
    # a cache for each layer, however few were measured: rows of 128 + 32 values of two bytes, 5 layers
    assert found["table"][2]["cache_bytes"] == 4096 * 160 * 2 * 5
    refused = run("bench", "slice", "--model-path", MODEL, "--table", "--op", "router")
    assert refused.returncode == 1 and "--op without it" in refused.stderr


@pytest.mark.skipif(DEVICE == "cuda", reason="of the GPU in host memory, which has 1 GiB")
def test_bench_slice_says_what_has_no_room(run, tmp_path):
    text, found = tabulate(run, tmp_path / "table.json", "decode 256 at 8192")
    assert "- 256 at 8192: the KV cache of all layers, 3.4 GB, does not fit" in text
    [row] = found["table"]
    assert row["fits"] is False and "step_ms" not in row


def test_a_slice_does_not_record_the_load_of_experts(run, tmp_path):
    result = run("eval", "--device", "cuda", "--load-format", "dummy", "--slice-experts", 8, "--model-path", MODEL, "--limit", 1,
                 "--expert-load", tmp_path / "load.json")
    assert result.returncode == 1, result.stderr
    assert "without --slice-experts" in result.stderr
