#!/usr/bin/env python3
"""Each file that launches kernels gives one of them by PROA_CUDA_KERNELS, and src/op/cuda/kernels.cu lists it; the digest of the products' sources
(src/op/cuda/meson.build) is made of all that these include; a kernel that may start beside the one before it waits for that one's end."""
import posixpath
import re

from common import finish, includes, lines, root, sources

LIST, BUILD = "src/op/cuda/kernels.cu", "src/op/cuda/meson.build"
LAUNCHES = ("<<<", "cudaLaunchKernel", "proa_cuda_follow(")
listed = re.findall(r"proa_cuda_kernels_(\w+)[,}]", re.search(r"files\[\] = \{[^}]*\}", (root() / LIST).read_text())[0])
given, problems = [], []
for path in sources("src"):
    text = [line for _, line in lines(path)] if path.suffix == ".cu" else []
    names = [match[1] for line in text if (match := re.match(r"PROA_CUDA_KERNELS\((\w+),", line))]
    if any(word in line for line in text for word in LAUNCHES) and len(names) != 1:
        problems.append(f"{path}:1: it has kernels: end it with one PROA_CUDA_KERNELS(name, one of them)")
    given += names
    problems += [f"{path}:1: {name} is not listed in {LIST}" for name in names if name not in listed]
problems += [f"{LIST}:1: {name} is of no file" for name in listed if name not in given]


def with_included(paths):
    """These files, and what of src/op they include, each other's too."""
    found, left = set(), list(paths)
    while left:
        path = left.pop()
        if path not in found:
            found.add(path)
            left += [f"src/{header}" for _, mark, header in includes(path) if mark == '"' and header.startswith("op/")]
    return found


# Kernels that are launched by proa_cuda_follow, and bodies of kernels by their names; clang-format ends each with a brace in the first column.
following, bodies = {}, {}
for path in sources("src"):
    if path.suffix in (".cu", ".cuh"):
        text = (root() / path).read_text()
        for match in re.finditer(r"proa_cuda_follow\(\s*(?:\w+\(\w+\)|\w+),\s*(?:\w+::)?(\w+)", text):
            following.setdefault(match[1], (path, text[:match.start()].count("\n") + 1))
        for match in re.finditer(r"__global__[^;{]*?(\w+)\([^()]*\)\s*\{.*?^\}", text, re.DOTALL | re.MULTILINE):
            bodies[match[1]] = match[0]
problems += [f"{path}:{number}: {name} starts beside the kernel before it, and has no follow_wait() or follow() (src/op/ptx/follow.cuh)"
             for name, (path, number) in sorted(following.items()) if not re.search(r"\bfollow(_wait)?\(\)", bodies.get(name, ""))]

build = (root() / BUILD).read_text()
digest = re.search(r"cuda_digest = .*?files\(([^)]*)\)", build, re.DOTALL)
number = build[:digest.start()].count("\n") + 1
digested = {posixpath.normpath(posixpath.join(posixpath.dirname(BUILD), name)) for name in re.findall(r"'([^']+)'", digest[1])}
included = with_included(path for path in digested if path.endswith(".cu"))
problems += [f"{BUILD}:{number}: cuda_digest has no {path}, which products include" for path in sorted(included - digested)]
problems += [f"{BUILD}:{number}: cuda_digest has {path}, which no product includes" for path in sorted(digested - included)]
finish(problems)
