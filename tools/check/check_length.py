#!/usr/bin/env python3
"""Functions have at most 70 lines, or a reason in long_functions.txt, and never 150; files at most 1,200, and a warning
from 800."""
import json
import subprocess

from common import finish, root, sources

FUNCTION_MAX, FUNCTION_NEVER = 70, 150
FILE_WARN, FILE_MAX = 800, 1200
REASONS = "tools/check/long_functions.txt"


def reasons():
    """{"path function": line number} from lines "path function: reason"."""
    file = root() / REASONS
    found = {}
    for number, line in enumerate(file.read_text().splitlines() if file.exists() else [], start=1):
        if line and not line.startswith("#"):
            name, _, reason = line.partition(": ")
            if not reason.strip():
                problems.append(f"{REASONS}:{number}: {name} has no reason: write \"path function: reason\"")
            found[name] = number
    return found


problems = []
paths = sources("src", "tests", "bench")
for path in paths:
    count = (root() / path).read_text().count("\n")
    if count > FILE_MAX:
        problems.append(f"{path}:{count}: {count} lines, at most {FILE_MAX}: split the file")
    elif count > FILE_WARN:
        print(f"{path}:{count}: warning: {count} lines; look again from {FILE_WARN}")

allowed, used = reasons(), set()
command = ["ctags", "--languages=C,C++,CUDA", "--langmap=C:+.inc,CUDA:.cu.cuh", "--kinds-C=f", "--kinds-C++=f", "--kinds-CUDA=f",
           "--fields=+ne", "--output-format=json", "-f", "-", *map(str, paths)]
tags = subprocess.run(command, cwd=root(), capture_output=True, text=True, check=True).stdout if paths else ""
for tag in map(json.loads, tags.splitlines()):
    length = tag.get("end", tag["line"]) - tag["line"] + 1
    name = f"{tag['path']} {tag['name']}"
    place = f"{tag['path']}:{tag['line']}: {tag['name']}"
    if length >= FUNCTION_NEVER:
        problems.append(f"{place} has {length} lines; none has {FUNCTION_NEVER}: split it")
    elif length > FUNCTION_MAX and name not in allowed:
        problems.append(f"{place} has {length} lines, over {FUNCTION_MAX}: split it, or give a reason in {REASONS}")
    if length > FUNCTION_MAX:
        used.add(name)
for name, number in allowed.items():
    if name not in used:
        problems.append(f"{REASONS}:{number}: {name} is not over {FUNCTION_MAX} lines any more: remove this line")
finish(problems)
