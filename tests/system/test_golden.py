"""The layer graph against Hugging Face transformers: golden/ checkpoints in both precisions, on both host devices."""
import pytest

CASES = [
    # model, device, precision, tokens generated greedily
    ("v3-bf16", "cpu", "float32", 48),
    ("v3-fp8", "cpu", "float32", 48),
    ("v3-bf16", "ref", "float32", 48),
    ("v3-fp8", "ref", "float32", 0),
    ("v3-bf16", "cpu", "auto", 0),
    ("v3-fp8", "cpu", "auto", 0),
    ("v3-bf16", "ref", "auto", 0),
    ("v3-fp8", "ref", "auto", 0),
]


@pytest.mark.parametrize("model,device,precision,generate", CASES)
def test_logits_agree_with_transformers(run, data, model, device, precision, generate):
    folder = data(f"golden/{model}")
    result = run("logits", "--model-path", folder, "--input", folder / "expected.safetensors", "--device", device,
                 "--activation-dtype", precision, "--prefix", 32, "--generate", generate, "--compare", timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all within limits" in result.stdout


def test_comparison_can_fail(run, data):
    """Another checkpoint's expectations must not pass: tokens of one model, logits of the other."""
    folder = data("golden/v3-fp8")
    result = run("logits", "--model-path", folder, "--input", data("golden/v3-bf16") / "expected.safetensors",
                 "--activation-dtype", "float32", "--compare", timeout=300)
    assert result.returncode == 1
    assert "FAILED" in result.stdout
