"""`proa precompile`, on a GPU in host memory (tests/stand_in): what it measures and keeps, and that a server with it answers as one without."""
import json
import shutil

import httpx
import pytest
from conftest import TOP

MODEL = TOP / "models/tiny-r1"
WORKER = ["--model-path", MODEL, "--cuda-graph-bs", "2,4", "--max-running-requests", 4, "--chunked-prefill-size", 16]


@pytest.fixture(scope="module")
def proa(gpu_proa):
    """The program with a GPU, for all fixtures that start it."""
    return gpu_proa


@pytest.fixture
def precompile(run, tmp_path):
    """precompile(flags...) -> the result's JSON; the cache is tmp_path/cache."""

    def measure(*flags, **environment):
        result = run("precompile", *WORKER, "--context-length", 128, "--kernel-cache-dir", tmp_path / "cache", "--json",
                     tmp_path / "result.json", *flags, timeout=600, **environment)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "nothing is left to compile" in result.stdout
        return json.loads((tmp_path / "result.json").read_text())

    return measure


@pytest.fixture
def evaluate(run, tmp_path):
    """evaluate(flags...) -> (the outputs of the first questions, what was logged)."""

    def ask(*flags, **environment):
        output = tmp_path / "output.jsonl"
        result = run("eval", "--device", "cuda", *WORKER, "--limit", 6, "--max-new-tokens", 24, "--output", output, *flags,
                     timeout=600, **environment)
        assert result.returncode == 0, result.stderr
        return [json.loads(line)["output"] for line in output.read_text().splitlines()], result.stderr

    return ask


def the_file(folder):
    [path] = folder.glob("tiles-*.json")
    return path


def other_tiles(path):
    """Every choice becomes the other tile of the two that the stand-in has: answers must not move."""
    whole = json.loads(path.read_text())
    for choice in whole["choices"]:
        choice["tile"] = [128, 128] if choice["tile"] == [64, 64] else [64, 64]
    path.write_text(json.dumps(whole))
    return len(whole["choices"])


def test_every_op_has_a_kernel_and_every_product_a_tile(precompile, tmp_path):
    found = precompile()
    assert found["kernels"]["names"] and found["kernels"]["capability"] == 90
    assert {"embed", "router", "MLA decode", "MHA prefill", "dispatch pack", "combine", "LM head"} <= set(found["ops"])
    rows = found["rows"]
    assert {row["op"] for row in rows} == {"q_a, kv_a", "q_b", "W_UK", "W_UV", "kv_b", "o_proj", "dense MLP", "router",
                                           "experts gate, up", "experts down", "shared expert", "LM head"}
    assert all(row["us"] > 0 and row["us"] <= row["built_in_us"] and row["tile"] in ([64, 64], [128, 128]) for row in rows)
    assert max(row["rows"] for row in rows if row["op"] == "kv_b") == 128  # as far as the context
    assert {row["groups"] for row in rows if row["op"] == "experts down"} == {32}
    assert len(json.loads(the_file(tmp_path / "cache").read_text())["choices"]) <= len(rows)


def test_answers_do_not_depend_on_the_cache(precompile, evaluate, tmp_path):
    cache = ("--kernel-cache-dir", tmp_path / "cache")
    base, log = evaluate(*cache)
    assert "no measured tile choices" in log
    precompile()
    answers, log = evaluate(*cache)
    path = the_file(tmp_path / "cache")
    count = len(json.loads(path.read_text())["choices"])
    assert f"{count} tile choices measured on such a GPU" in log
    assert "measured tiles are in use for 100 % of the graphs' products" in log
    assert answers == base
    other_tiles(path)
    assert evaluate(*cache)[0] == base
    # kept by SGLang's variable too, and by the usual place of caches
    assert f"{count} tile choices" in evaluate(SGLANG_DG_CACHE_DIR=tmp_path / "cache")[1]
    shutil.copytree(tmp_path / "cache", tmp_path / "home/.cache/proa")
    assert f"{count} tile choices" in evaluate(HOME=tmp_path / "home", XDG_CACHE_HOME="", SGLANG_DG_CACHE_DIR="")[1]


def test_a_server_takes_the_cache(precompile, server, tmp_path):
    precompile()
    other_tiles(the_file(tmp_path / "cache"))
    one = server("--device", "cuda", *WORKER, "--served-model-name", "tiny", PROA_KERNEL_CACHE_DIR=str(tmp_path / "cache"))
    reply = httpx.post(f"{one.url}/v1/chat/completions", timeout=120, json={
        "model": "tiny", "temperature": 0, "max_tokens": 200,
        "messages": [{"role": "user", "content": "I wonder, if you subtract 6 from 77, what is left?"}]})
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["content"] == "71"
    assert "measured tiles are in use for 100 %" in one.log()


def test_bench_slice_takes_the_cache(precompile, run, tmp_path):
    precompile("--slice-experts", 9, "--disaggregation-mode", "decode")
    result = run("bench", "slice", "--model-path", MODEL, "--shape", "decode 1 at 4096", "--op", "LM head", "--kernel-cache-dir",
                 tmp_path / "cache", timeout=300)
    assert result.returncode == 0 and "tile choices measured on such a GPU" in result.stderr, result.stdout + result.stderr


@pytest.mark.parametrize("change, says", [
    (lambda text: text.replace('"kernels": "', '"kernels": "0'), "was measured with other kernels"),
    (lambda text: text.replace('"stand-in"', '"stand-up"'), "was measured on a GPU called stand-up"),
    (lambda text: text[:len(text) // 2], "is no JSON"),
    (lambda text: "", "is no JSON"),
    (lambda text: text.replace("    64,", "    63,", 1).replace("    128,", "    63,", 1), "a tile that is not built"),
])
def test_stale_and_corrupt_caches_warn_and_serve(run, tmp_path, evaluate, change, says):
    cache = ("--kernel-cache-dir", tmp_path / "cache")
    result = run("precompile", *WORKER, "--disaggregation-mode", "decode", "--cuda-graph-bs", 2, "--max-running-requests", 2, *cache,
                 timeout=600)
    assert result.returncode == 0, result.stderr
    path = the_file(tmp_path / "cache")
    path.write_text(change(path.read_text()))
    answers, log = evaluate(*cache, "--limit", 1)
    [warning] = [line for line in log.splitlines() if " warn " in line]
    assert says in warning and str(path) in warning
    assert answers


def test_a_rank_of_several_has_its_share(precompile):
    found = precompile("--tp-size", 4, "--dp-size", 4, "--enable-dp-attention", "--ep-num-redundant-experts", 4, "--nnodes", 2,
                       "--disaggregation-mode", "decode")  # no --dist-init-addr: nobody meets
    assert {row["groups"] for row in found["rows"] if row["op"] == "experts down"} == {9}
    assert {row["groups"] for row in found["rows"] if row["op"] == "W_UK"} == {4}
    assert not [row for row in found["rows"] if row["op"] == "kv_b"]  # of prompts alone


def test_what_it_refuses(run, tmp_path):
    for flags, says in [(("--tp-size", 3), "do not divide among 3 ranks"),
                        (("--tp-size", 2, "--dp-size", 2, "--enable-dp-attention", "--ep-num-redundant-experts", 1), "do not divide"),
                        (("--cuda-graph-bs", "x"), "--cuda-graph-bs"),
                        (("--slice-experts", 33), "--slice-experts 33"),
                        (("--base-gpu-id", 3), "there is no GPU 3")]:
        result = run("precompile", *WORKER, *flags)
        assert result.returncode != 0 and says in result.stderr, flags
    result = run("precompile", *WORKER, "--device", "cpu")
    assert result.returncode == 0 and "nothing to do" in result.stdout
    for flags, says in [(("--kernel-cache-dir", "/proc/none"), "/proc/none"), ((), "nowhere to keep the choices")]:
        result = run("precompile", *WORKER, *flags, HOME="", XDG_CACHE_HOME="", SGLANG_DG_CACHE_DIR="")
        assert result.returncode == 1 and says in result.stderr
        assert "are measured" not in result.stdout  # it is told before minutes are spent
