#!/usr/bin/env python3
"""docs/flags.md is what build/proa says."""
import subprocess

from common import finish, root

run = subprocess.run([root() / "build/proa", "help", "--format=markdown"], capture_output=True, text=True, check=True)
expected, file = run.stdout.split("\n"), root() / "docs/flags.md"
found = file.read_text().split("\n") if file.exists() else []
for number, (a, b) in enumerate(zip(expected + [None], found + [None]), start=1):
    if a != b:
        finish([f"docs/flags.md:{number}: not what build/proa says: run `make docs`"])
finish([] if len(expected) == len(found) else [f"docs/flags.md:1: not what build/proa says: run `make docs`"])
