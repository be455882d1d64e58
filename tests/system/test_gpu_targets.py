"""What the kernels of a build are: machine code for each GPU of meson's gpu_targets, and nothing that a driver would have to compile."""
import json
import pathlib
import re
import shutil
import struct
import subprocess

import pytest

from conftest import BUILD

PTX, MACHINE_CODE = 1, 2  # kinds of an entry
REGION = struct.Struct("<IHHQ")  # magic, version, bytes of this header, bytes of the entries
ENTRY = struct.Struct("<HHIQIIHHI")  # kind, version, bytes of this header, bytes of the code, compressed, options, two of its version, architecture
MAGIC = 0xBA55ED50


def fat_binaries(path):
    """nvcc's section of a linked program: for each object that has kernels, its entries as (kind, architecture)."""
    sections = subprocess.run(["readelf", "--section-headers", "--wide", path], capture_output=True, text=True, check=True).stdout
    row = re.search(r"\.nv_fatbin\s+PROGBITS\s+\w+\s+(\w+)\s+(\w+)", sections)
    if row is None:
        return []
    offset, size = (int(number, 16) for number in row.groups())
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(size)
    found, at = [], 0
    while at + REGION.size <= len(data):
        magic, _, header, length = REGION.unpack_from(data, at)
        if magic != MAGIC:
            at += 8  # filled up to an alignment
            continue
        at += header
        end, entries = at + length, []
        while at < end:
            kind, _, header, length, *_, architecture = ENTRY.unpack_from(data, at)
            entries.append((kind, architecture))
            at += header + length
        assert at == end
        found.append(entries)
    return found


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
