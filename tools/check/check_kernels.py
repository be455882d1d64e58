#!/usr/bin/env python3
"""Each file that launches kernels gives one of them by PROA_CUDA_KERNELS, and src/op/cuda/kernels.cu lists it."""
import re

from common import finish, lines, root, sources

LIST = "src/op/cuda/kernels.cu"
listed = re.findall(r"proa_cuda_kernels_(\w+)[,}]", re.search(r"files\[\] = \{[^}]*\}", (root() / LIST).read_text())[0])
given, problems = [], []
for path in sources("src"):
    text = [line for _, line in lines(path)] if path.suffix == ".cu" else []
    names = [match[1] for line in text if (match := re.match(r"PROA_CUDA_KERNELS\((\w+),", line))]
    if any("<<<" in line or "cudaLaunchKernel" in line for line in text) and len(names) != 1:
        problems.append(f"{path}:1: it has kernels: end it with one PROA_CUDA_KERNELS(name, one of them)")
    given += names
    problems += [f"{path}:1: {name} is not listed in {LIST}" for name in names if name not in listed]
problems += [f"{LIST}:1: {name} is of no file" for name in listed if name not in given]
finish(problems)
