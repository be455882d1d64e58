"""What the checks share. Each check is a script of its own: check_NAME.py [ROOT]; it prints one line a problem,
"file:line: what is wrong", and exits 1 when there is any."""
import pathlib
import re
import sys

# Lowest first: a room includes only the rooms before it. text and op do not include each other.
ROOMS = ["base", "text", "op", "model", "net", "engine", "cluster", "serve", "sim", "cmd"]

SUFFIXES = {".c", ".h", ".cu", ".cuh", ".inc"}  # .inc: included several times, with other macros each time
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def root():
    return pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2]).resolve()


def sources(*folders):
    """The C and CUDA files under these folders, as paths relative to the root, in order."""
    top = root()
    return sorted(p.relative_to(top) for f in folders for p in (top / f).rglob("*") if p.suffix in SUFFIXES)


def lines(path):
    return enumerate((root() / path).read_text(encoding="utf-8").split("\n"), start=1)


def includes(path):
    """(line, '<' or '"', header) of each include."""
    for number, line in lines(path):
        if match := INCLUDE.match(line):
            yield number, match[1], match[2]


def finish(problems):
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)
