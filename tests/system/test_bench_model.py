"""`proa bench model` on the bundled model: its figures agree with each other and with the model's shapes."""
import json
import math
from pathlib import Path

import pytest

MODEL = Path(__file__).resolve().parents[2] / "models" / "tiny-r1"


def fp8(n, k):
    return n * k + 4 * math.ceil(n / 128) * math.ceil(k / 128)


def expected(config, rows, position, experts, decode):
    """Bytes and operations of a step, added up layer by layer. Decode: `rows` sequences with a token each."""
    c = type("Config", (), config)
    heads, nope, rope, v = c.num_attention_heads, c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim
    attention = [(c.q_lora_rank, c.hidden_size), (heads * (nope + rope), c.q_lora_rank),
                 (c.kv_lora_rank + rope, c.hidden_size), (c.hidden_size, heads * v)]
    keys = range(position + 1, position + 2) if decode else range(position + 1, position + rows + 1)
    sequences, logits = (rows, rows) if decode else (1, 1)
    kv_b = heads * (nope + v) * c.kv_lora_rank
    read = sum(fp8(n, k) for n, k in attention) + sequences * keys[-1] * 2 * (c.kv_lora_rank + rope)
    done = rows * sum(2 * n * k for n, k in attention)
    if decode:
        read += 2 * kv_b
        done += 2 * rows * (kv_b + heads * keys[0] * (2 * c.kv_lora_rank + rope))
    else:
        read += fp8(heads * (nope + v), c.kv_lora_rank)
        done += 2 * (keys[-1] * kv_b + heads * sum(keys) * (nope + rope + v))
    read, done = read * c.num_hidden_layers, done * c.num_hidden_layers
    read += 2 * c.hidden_size * (rows + c.vocab_size)
    done += 2 * logits * c.vocab_size * c.hidden_size
    dense, moe = c.first_k_dense_replace, c.num_hidden_layers - c.first_k_dense_replace
    one = 2 * fp8(c.moe_intermediate_size, c.hidden_size) + fp8(c.hidden_size, c.moe_intermediate_size)
    read += dense * (2 * fp8(c.intermediate_size, c.hidden_size) + fp8(c.hidden_size, c.intermediate_size))
    read += moe * ((experts + c.n_shared_experts) * one + 2 * c.n_routed_experts * c.hidden_size)
    done += 6 * rows * c.hidden_size * dense * c.intermediate_size
    done += 6 * rows * c.hidden_size * moe * (c.num_experts_per_tok + c.n_shared_experts) * c.moe_intermediate_size
    return read, done + 2 * rows * moe * c.n_routed_experts * c.hidden_size


@pytest.mark.parametrize("shape, rows, position, decode", [
    ("decode 1,", 1, 511, True),
    ("decode 8,", 8, 511, True),
    ("prefill 512 at 1024", 512, 1024, False),
])
def test_figures(run, tmp_path, shape, rows, position, decode):
    config = json.loads((MODEL / "config.json").read_text())
    result = run("bench", "model", "--model-path", MODEL, "--shape", shape, "--json", tmp_path / "out.json")
    assert result.returncode == 0, result.stderr
    out = json.loads((tmp_path / "out.json").read_text())
    [row] = out["rows"]
    assert row["shape"].startswith(shape) and row["shape"] in result.stdout and row["rows"] == rows
    assert row["steps"] >= 5
    top_k = config["num_experts_per_tok"]
    assert top_k <= row["experts"] <= min(config["n_routed_experts"], rows * top_k)
    read, done = expected(config, rows, position, row["experts"], decode)
    assert row["bytes"] == pytest.approx(read) and row["flops"] == pytest.approx(done)
    seconds = row["time_us"] * 1e-6
    assert row["tokens_per_s"] == pytest.approx(rows / seconds)
    assert row["gbps"] == pytest.approx(read / seconds * 1e-9)
    assert row["gflops"] == pytest.approx(done / seconds * 1e-9)
    limits = {"memory": read / out["bounds"]["read_gbps"] / 1e3, "bf16": done / out["bounds"]["bf16_gflops"] / 1e3}
    assert row["bound"] == max(limits, key=limits.get)
    assert row["bound_us"] == pytest.approx(limits[row["bound"]])
    assert 0 < row["percent"] < 150 and row["percent"] == pytest.approx(100 * row["bound_us"] / row["time_us"])


def test_unknown_shape_is_explained(run):
    result = run("bench", "model", "--model-path", MODEL, "--shape", "neither")
    assert result.returncode == 1
    assert 'no step of bench model has "neither" in its description' in result.stderr
