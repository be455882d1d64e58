#!/usr/bin/env python3
"""libraries.py PROGRAM OUT - lays out in OUT what PROGRAM needs of a system so that it runs where nothing else is: the loader, the libraries that it
names and those that these name; the modules that UCX and libibverbs load by themselves; certificates of authorities; a user; the licences of all.

--sysroot DIR is where the system lies (default /), --triplet its libraries' folder. Programs of another architecture are not run: names are
read out of the files.
"""
import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

# Loaded by name at run time, so no file says that it needs them: UCX by the program (net/ucx.c), its transports, libibverbs' drivers and their list.
LOADED = ("libucp.so.0",)
MODULES = ("usr/lib/{triplet}/ucx/libuct_*.so.0", "usr/lib/{triplet}/libibverbs/*.so")
FILES = ("etc/libibverbs.d/*.driver",)
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"  # made when its package is configured, so never in a sysroot
USER = {"etc/passwd": "root:x:0:0::/:\nproa:x:10001:10001::/:\n", "etc/group": "root:x:0:\nproa:x:10001:\n"}


def said_by(path):
    """(libraries that an ELF file needs, the loader that it wants or None)."""
    text = subprocess.run(["readelf", "--wide", "--dynamic", "--program-headers", path], capture_output=True, text=True, check=True).stdout
    loader = re.search(r"Requesting program interpreter: ([^\]]+)\]", text)
    return re.findall(r"\(NEEDED\).*\[(.+)\]", text), loader and loader[1]


class System:
    """Where files come from."""

    def __init__(self, root, triplet):
        self.root = pathlib.Path(root)
        self.triplet = triplet
        self.folders = [f"{top}/{triplet}" for top in ("usr/lib", "lib")] + ["usr/lib", "lib", "usr/lib64", "lib64"]

    def find(self, name):
        for folder in self.folders:
            if (self.root / folder / name).exists():
                return self.root / folder / name
        sys.exit(f"libraries.py: {name} is in none of {', '.join(self.folders)} of {self.root}: is its package installed?")

    def glob(self, pattern):
        return sorted(self.root.glob(pattern.format(triplet=self.triplet)))

    def licences(self, paths):
        """The copyright files of the packages that own the paths; of a sysroot, which has no list of packages, those of all in it."""
        documents = self.root / "usr/share/doc"
        if self.root != pathlib.Path("/"):
            return sorted(documents.glob("*/copyright"))
        packages = {owner(path) for path in paths}
        return [documents / package / "copyright" for package in sorted(packages)]


def owner(path):
    """The Debian package of a file. With /lib being /usr/lib, it may be listed under either name."""
    real = os.path.realpath(path)
    names = {str(path), real, real.removeprefix("/usr"), str(path).removeprefix("/usr")}
    result = subprocess.run(["dpkg-query", "--search", *names], capture_output=True, text=True)
    found = re.match(r"([^:,\s]+)(:\w+)?: ", result.stdout)
    if not found:
        sys.exit(f"libraries.py: no package owns {path}")
    return found[1]


def closure(system, program):
    """{path in the image: file} of the loader, libraries and modules."""
    found = {f"usr/lib/{system.triplet}/{name}": system.find(name) for name in LOADED}
    waiting = [program, *found.values()]
    for pattern in MODULES:
        for path in system.glob(pattern):
            found[str(path.relative_to(system.root))] = path
            waiting.append(path)
    while waiting:
        needed, loader = said_by(waiting.pop(0))
        if loader:
            found[loader.lstrip("/")] = system.find(os.path.basename(loader))
        for name in needed:
            place = f"usr/lib/{system.triplet}/{name}"
            if place not in found and not any(os.path.basename(known) == name for known in found):
                found[place] = system.find(name)
                waiting.append(found[place])
    return found


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)  # times too: the same libraries are the same layer


def lay_out(system, program, out):
    files = closure(system, program)
    for pattern in FILES:
        files |= {str(path.relative_to(system.root)): path for path in system.glob(pattern)}
    for place, source in files.items():
        copy(source, out / place)
    copy(pathlib.Path("/") / CERTIFICATES, out / CERTIFICATES)
    for licence in system.licences(list(files.values())):
        copy(licence, out / licence.relative_to(system.root))
    for place, text in USER.items():
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        (out / place).write_text(text)
        os.utime(out / place, (0, 0))
    (out / "tmp").mkdir()
    for folder, _, _ in os.walk(out):
        os.chmod(folder, 0o1777 if folder == str(out / "tmp") else 0o755)
        os.utime(folder, (0, 0))
    return files


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sysroot", default="/")
    parser.add_argument("--triplet", required=True, help="x86_64-linux-gnu, for example")
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    arguments = parser.parse_args()
    files = lay_out(System(arguments.sysroot, arguments.triplet), arguments.program, arguments.out)
    print(f"libraries.py: {len(files)} files for {arguments.program}")


if __name__ == "__main__":
    main()
