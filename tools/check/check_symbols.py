#!/usr/bin/env python3
"""Every symbol that an object of build/ exports begins with proa_ (main excepted)."""
import os
import re
import subprocess

from common import finish, root

build = root() / "build"
objects = sorted([*build.glob("src/**/*.a"), *build.glob("proa.p/*.o")])
problems = [] if objects else [f"{build}:1: no objects here: run `make` first"]
# -l reads the line numbers from the debug information: "name T address size<TAB>file:line"
run = subprocess.run(["nm", "--extern-only", "--defined-only", "--format=posix", "-l", *objects], capture_output=True, text=True)
if run.returncode != 0:
    problems.append(f"nm failed: {run.stderr.strip()}")
for line in run.stdout.splitlines():
    match = re.match(r"(\S+) [A-Za-z] [0-9a-f]+ [0-9a-f]*\s*(\S*)", line)
    if match and not match[1].startswith("proa_") and match[1] != "main":
        place = os.path.relpath(match[2], root()) if match[2] else "build:1"
        problems.append(f"{place}: {match[1]} is public and does not begin with proa_: make it static or rename it")
finish(problems)
