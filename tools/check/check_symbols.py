#!/usr/bin/env python3
"""Every symbol that an object of build/ exports begins with proa_ (main excepted) and is exported by no other one (a linker takes the first of an
archive and says nothing), and none has mutable statics but those that are named here."""
import re
import subprocess

from common import finish, root

MUTABLE = {"log_level", "log_rank",  # of log lines: one a process, atomic
           "question", "question_fd", "answered"}  # of base/stacks.c: a signal handler has no argument; atomic

build = root() / "build"
problems, exporters = [], {}
objects = sorted([*build.glob("src/**/*.a"), *build.glob("proa.p/*.o")])
if not objects:
    problems.append(f"{build}:1: no objects here: run `make` first")
run = subprocess.run(["nm", "--defined-only", "--print-file-name", "--format=sysv", *objects], capture_output=True, text=True)
if run.returncode != 0:
    problems.append(f"nm failed: {run.stderr.strip()}")
for line in run.stdout.splitlines():
    place, _, row = line.rpartition(":")  # archive:object.o:row
    columns = [c.strip() for c in row.split("|")]  # name, value, class, type, size, line, section
    if len(columns) != 7:
        continue
    name, section, exported = columns[0], columns[6], columns[2].isupper()
    if name.startswith("_Z"):
        continue  # of CUDA files: kernels in their namespace, and what nvcc makes for each to be started by
    place = place.replace(f"{root()}/", "") + ":1"
    if exported and not name.startswith("proa_") and name != "main":
        problems.append(f"{place}: {name} is public and does not begin with proa_: make it static or rename it")
    if exported and columns[2] not in "VWU" and exporters.setdefault(name, place) != place:
        problems.append(f"{place}: {name} is public in {exporters[name].removesuffix(':1')} too: one of them is called for both")
    if columns[3] in ("OBJECT", "TLS") and re.fullmatch(r"\.t?(data|bss)(\.\w+)?|\*COM\*", section) and name not in MUTABLE \
            and not name.startswith("__"):
        problems.append(f"{place}: {name} is a mutable static: put it into a struct that someone owns")
finish(problems)
