#!/usr/bin/env python3
"""Each header of src/ compiles alone and twice, with gcc and with clang. (A template that is included with
other macros each time is no header: it ends in .inc.)"""
import concurrent.futures
import re
import subprocess

from common import finish, root, sources

FLAGS = ["-std=gnu17", "-fsyntax-only", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-Isrc", "-x", "c", "-"]


def compile_alone(compiler, path):
    text = f'#include "{path.relative_to("src")}"\n' * 2
    run = subprocess.run([compiler, *FLAGS], input=text, cwd=root(), capture_output=True, text=True)
    if run.returncode == 0:
        return []
    errors = [line for line in run.stderr.splitlines() if re.search(r"\berror:", line)]
    return [f"{errors[0] if errors else run.stderr.strip()} ({path} does not compile alone with {compiler})"]


jobs = [(compiler, path) for path in sources("src") if path.suffix == ".h" for compiler in ("gcc", "clang")]
with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
    finish([problem for found in pool.map(lambda job: compile_alone(*job), jobs) for problem in found])
