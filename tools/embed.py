#!/usr/bin/env python3
"""embed.py NAME FILE - prints C that defines the text of FILE as `const char NAME[]`, a line of the file a line of C."""
import pathlib
import sys


def quoted(line):
    escaped = line.replace("\\", "\\\\").replace('"', '\\"').replace("?", "\\?").replace("\t", "\\t")
    assert escaped.isascii() and escaped.isprintable(), f"only printable ASCII can be embedded: {line!r}"
    return f'    "{escaped}\\n"'


name, path = sys.argv[1:]
lines = pathlib.Path(path).read_text().splitlines()
print(f"/* Made from {pathlib.Path(path).name}. */\nextern const char {name}[];\nconst char {name}[] =")
print("\n".join(map(quoted, lines)) + ";")
