#!/usr/bin/env python3
"""Rooms include only the rooms below them; each header of an external library is included by one file of src/."""
import collections
import re

from common import ROOMS, finish, includes, root, sources

APART = [{"text", "op"}]  # neighbours that do not know each other

# Not external: C, POSIX, Linux, the compiler's own.
SYSTEM = re.compile(r"""(sys|linux|netinet|arpa|net)/.*
    |(assert|complex|ctype|errno|fenv|float|inttypes|iso646|limits|locale|math|setjmp|signal|stdalign|stdarg|stdatomic
     |stdbool|stddef|stdint|stdio|stdlib|stdnoreturn|string|strings|tgmath|threads|time|uchar|wchar|wctype)\.h
    |(dirent|dlfcn|endian|fcntl|ftw|getopt|glob|grp|ifaddrs|libgen|netdb|poll|pthread|pwd|sched|semaphore|spawn|syslog
     |termios|ucontext|unistd|execinfo|link)\.h
    |(cpuid|[a-z0-9]*intrin|arm_neon)\.h""", re.VERBOSE)

problems = []
users = collections.defaultdict(list)
for path in sources("src"):
    room = path.parts[1]
    if room not in ROOMS:
        problems.append(f"{path}:1: src/{room} is no room: the rooms are {', '.join(ROOMS)}")
        continue
    for line, kind, header in includes(path):
        other = header.split("/")[0]
        if kind == "<":
            kernel = path.suffix in (".cu", ".cuh") and header.startswith("cuda")  # the language that they are written in
            if not SYSTEM.fullmatch(header) and not kernel:
                users[header].append(f"{path}:{line}")
        elif header.endswith(".c"):
            problems.append(f"{path}:{line}: includes the source file {header}")
        elif other not in ROOMS or not (root() / "src" / header).is_file():
            problems.append(f'{path}:{line}: "{header}" is not a file of src/: write "room/file.h", and <> for libraries')
        elif ROOMS.index(other) > ROOMS.index(room):
            problems.append(f"{path}:{line}: {room} includes {header}, but {other} stands above {room}")
        elif {room, other} in APART:
            problems.append(f"{path}:{line}: {room} includes {header}, but {room} and {other} do not know each other")

for header, places in sorted(users.items()):
    for place in places[1:]:
        problems.append(f"{place}: <{header}> is wrapped by {places[0].split(':')[0]}: use that instead")

for path in sources("tests", "bench"):
    for line, kind, header in includes(path):
        if header.endswith(".c"):
            problems.append(f"{path}:{line}: includes the source file {header}")
finish(problems)
