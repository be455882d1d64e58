#!/usr/bin/env python3
"""digest.py NAME TEXT FILE... - prints C that defines, as `const char NAME[]`, 16 hex digits that change with TEXT and the files."""
import hashlib
import pathlib
import sys

name, text, *files = sys.argv[1:]
digest = hashlib.sha256(text.encode())
for path in sorted(files):
    digest.update(pathlib.Path(path).read_bytes())
print(f'/* Made from {len(files)} files. */\nextern const char {name}[];\nconst char {name}[] = "{digest.hexdigest()[:16]}";')
