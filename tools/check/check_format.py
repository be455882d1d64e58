#!/usr/bin/env python3
"""C files are as clang-format writes them; no text file has trailing blanks, tabs for indentation or a missing last
newline."""
import os
import subprocess

from common import SUFFIXES, finish, root, sources

TEXT_SUFFIXES = {*SUFFIXES, ".py", ".sh", ".md", ".txt", ".build", ".ini", ".toml"}
SKIP = {".git", "__pycache__", ".pytest_cache", "vendor"}


def text_files(top):
    for folder, subfolders, names in os.walk(top):
        subfolders[:] = [s for s in subfolders if s not in SKIP and not s.startswith("build")]
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.splitext(name)[1] in TEXT_SUFFIXES or name in ("Makefile", "meson.build", "run"):
                yield os.path.relpath(path, top)


problems = []
for path in text_files(root()):
    with open(root() / path, encoding="utf-8", newline="") as file:
        text = file.read()
    if text and not text.endswith("\n"):
        problems.append(f"{path}:{text.count(chr(10)) + 1}: no newline at the end of the file")
    for number, line in enumerate(text.split("\n"), start=1):
        if line != line.rstrip():
            problems.append(f"{path}:{number}: trailing white space")
        if line.startswith("\t") and os.path.basename(path) != "Makefile":
            problems.append(f"{path}:{number}: a tab indents this line: use spaces")

files = [str(root() / p) for p in sources("src", "tests", "bench")]
if files:
    style = f"--style=file:{root() / '.clang-format'}"
    run = subprocess.run(["clang-format", "--dry-run", "-Werror", style, *files], capture_output=True, text=True)
    problems += [line.replace(f"{root()}/", "") + ": run `make format`"
                 for line in run.stderr.splitlines() if "error:" in line]
    if run.returncode != 0 and not problems:
        problems.append(f"clang-format failed: {run.stderr.strip()}")
finish(problems)
