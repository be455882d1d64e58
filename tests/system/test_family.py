"""The shapes of the family that no published reference covers: checkpoints made by tests/tools/make_checkpoint.py, whose
numpy reference agrees with Hugging Face transformers to 3e-5 on every variant here (tests/tools/compare_transformers.py).
"""
import pathlib
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tools"))
import make_checkpoint  # noqa: E402
import tensors  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """checkpoint("ue8m0") is the folder of that variant, made once."""
    made = {}

    def find(variant):
        if variant not in made:
            made[variant] = tmp_path_factory.mktemp(variant)
            make_checkpoint.make(made[variant], make_checkpoint.BASE | make_checkpoint.VARIANTS[variant])
        return made[variant]

    return find


@pytest.mark.parametrize("device", ["ref", "cpu"])
@pytest.mark.parametrize("variant", make_checkpoint.VARIANTS)
def test_exact_mode_agrees(run, checkpoint, variant, device):
    directory = checkpoint(variant)
    result = run("logits", "--model-path", directory, "--input", directory / "expected.safetensors", "--device", device,
                 "--activation-dtype", "float32", "--prefix", 16, "--generate", 16, "--compare")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("device", ["ref", "cpu"])
@pytest.mark.parametrize("variant", make_checkpoint.VARIANTS)
def test_default_mode_is_near(run, checkpoint, variant, device, tmp_path):
    """Roundings cascade in a random model, so that only the distribution can be bounded: the limits are loose, and catch
    a wrong scale, block or layout."""
    directory = checkpoint(variant)
    result = run("logits", "--model-path", directory, "--input", directory / "expected.safetensors", "--device", device,
                 "--output", tmp_path / "found.safetensors")
    assert result.returncode == 0, result.stdout + result.stderr
    found, expected = (tensors.read(folder / name)["logits"].astype(np.float64)
                       for folder, name in ((tmp_path, "found.safetensors"), (directory, "expected.safetensors")))
    distance = np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    quantised = "quantization_config" in make_checkpoint.VARIANTS[variant]
    assert np.median(distance) < (0.2 if quantised else 0.05), np.median(distance)
