"""GPU code in a program or an object file: the fat binaries that nvcc leaves in it, read without CUDA's tools."""
import re
import struct
import subprocess

PTX, MACHINE_CODE = 1, 2  # kinds of an entry
MAGIC = struct.pack("<I", 0xBA55ED50)
REGION = struct.Struct("<IHHQ")  # magic, version, bytes of this header, bytes of the entries
ENTRY = struct.Struct("<HHIQIIHHI")  # kind, version, bytes of this header, bytes of the code, compressed, options, two of its version, architecture


def fat_binaries(path):
    """For each object that has kernels, its pieces of code as (kind, architecture): [[(2, 90), (2, 100)], ...]."""
    sections = subprocess.run(["readelf", "--section-headers", "--wide", path], capture_output=True, text=True, check=True).stdout
    row = re.search(r"\.nv_fatbin\s+PROGBITS\s+\w+\s+(\w+)\s+(\w+)", sections)
    if row is None:
        return []
    offset, size = (int(number, 16) for number in row.groups())
    data, at, found = path.read_bytes()[offset:offset + size], 0, []
    while (at := data.find(MAGIC, at)) >= 0:
        _, _, header, size = REGION.unpack_from(data, at)
        at += header
        end, entries = at + size, []
        while at < end:
            kind, _, header, size, *_, architecture = ENTRY.unpack_from(data, at)
            entries.append((kind, architecture))
            at += header + size
        assert at == end, f"{path}: an entry ends at {at}, its fat binary at {end}"
        found.append(entries)
    return found
