"""What the kernels of a build are: machine code for each GPU of meson's gpu_targets, and nothing that a driver would have to compile."""
import json
import pathlib
import re
import shutil
import subprocess

import pytest

from conftest import BUILD
from fat_binaries import MACHINE_CODE, PTX, fat_binaries


@pytest.fixture(scope="module")
def targets():
    """gpu_targets of this build, as 90a."""
    if not (BUILD / "src/op/cuda/libproa_op_cuda.a").exists():
        pytest.skip("built without CUDA: nvcc 13 or later is neither in PATH nor in /usr/local/cuda, or -Dcuda=disabled")
    options = json.loads(subprocess.run(["meson", "introspect", "--buildoptions", BUILD], capture_output=True, check=True).stdout)
    return sorted(next(option["value"] for option in options if option["name"] == "gpu_targets"))


@pytest.fixture(scope="module")
def cuobjdump(targets):
    at_home = pathlib.Path("/usr/local/cuda/bin/cuobjdump")
    program = shutil.which("cuobjdump") or (at_home if at_home.exists() else None)
    if program is None:
        pytest.skip("cuobjdump, of CUDA's toolkit, is neither in PATH nor in /usr/local/cuda/bin")

    def run_it(option, path):
        result = subprocess.run([program, option, path], capture_output=True, text=True, timeout=300)
        return result.stdout + result.stderr

    return run_it


def test_every_object_has_code_for_every_target(proa, targets):
    objects = fat_binaries(proa)
    wanted = sorted((MACHINE_CODE, int(target.rstrip("af"))) for target in targets)
    assert len(objects) >= 10 and all(sorted(entries) == wanted for entries in objects), objects


def test_ptx_would_be_seen(targets, tmp_path):
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if nvcc is None:
        pytest.skip("nvcc, by which build was compiled, is not in PATH or /usr/local/cuda/bin any more")
    (tmp_path / "k.cu").write_text("__global__ void k() {}\n")
    subprocess.run([nvcc, "-gencode=arch=compute_90a,code=[sm_90a,compute_90a]", "-c", "k.cu", "-o", "k.o"], cwd=tmp_path, check=True, timeout=300)
    assert [sorted(entries) for entries in fat_binaries(tmp_path / "k.o")] == [[(PTX, 90), (MACHINE_CODE, 90)]]


def test_cuobjdump_agrees(proa, targets, cuobjdump):
    code = re.findall(r"\.sm_(\w+)\.cubin", cuobjdump("--list-elf", proa))
    assert {target: code.count(target) for target in targets} == dict.fromkeys(targets, len(fat_binaries(proa)))
    assert set(code) == set(targets)
    assert "No PTX file found" in cuobjdump("--list-ptx", proa)


@pytest.mark.long
def test_products_of_the_test_variant_are_warps(targets, cuobjdump):
    """The programs by which an H100 tries the products of GPUs without wgmma have none (a GMMA there), and the program has."""
    if "90a" not in targets:
        pytest.skip("gpu_targets has no 90a")
    for program, warpgroup in (("gpu_test_linear", True), ("gpu_test_linear_warp", False)):
        code = cuobjdump("-sass", BUILD / "tests/gpu" / program)
        ours = code.split("arch = sm_90a", 1)[1]
        assert "LDSM" in code and bool(re.search(r"[QH]GMMA", ours)) == warpgroup
