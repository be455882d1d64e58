"""The layer graph against Hugging Face transformers: golden/ checkpoints in both precisions, on both host devices."""
import subprocess

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
def test_logits_agree_with_transformers(proa, test_data, model, device, precision, generate):
    folder = test_data / "golden" / model
    if not folder.exists():
        pytest.skip(f"no {folder}: set PROA_TEST_DATA to the folder that holds golden/")
    result = subprocess.run(
        [proa, "logits", "--model-path", folder, "--input", folder / "expected.safetensors", "--device", device,
         "--activation-dtype", precision, "--prefix", "32", "--generate", str(generate), "--compare"],
        capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all within limits" in result.stdout
    assert "logits" in result.stdout
