"""The shapes of the family that no published reference covers: checkpoints made by tests/tools/make_checkpoint.py, whose
numpy reference agrees with Hugging Face transformers to 3e-5 on every variant here (tests/tools/compare_transformers.py).
"""
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tools"))
import make_checkpoint  # noqa: E402


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
    if "\n  logits " not in run("help").stdout:
        pytest.skip("this build has no `proa logits`")
    directory = checkpoint(variant)
    result = run("logits", "--model-path", directory, "--input", directory / "expected.safetensors", "--device", device,
                 "--activation-dtype", "float32", "--prefix", 16, "--generate", 16, "--compare")
    assert result.returncode == 0, result.stdout + result.stderr
