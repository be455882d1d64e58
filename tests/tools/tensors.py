"""Reading and writing .safetensors files and the small float formats, with numpy alone.

BF16 tensors are uint16 arrays and FP8 tensors uint8 arrays of codes, each wrapped in `Raw` with the format's name; all
other arrays stand for themselves.
"""

import json
import struct
from dataclasses import dataclass

import numpy as np

NAMES = {"float32": "F32", "float64": "F64", "int32": "I32", "int64": "I64", "uint8": "U8"}
TYPES = {"F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8", "U8": "u1", "BF16": "<u2", "F8_E4M3": "u1", "F8_E8M0": "u1"}


@dataclass
class Raw:
    name: str  # of the type: "BF16", "F8_E4M3", "F8_E8M0"
    codes: np.ndarray


def _e4m3_values():
    codes = np.arange(128)
    exponent, mantissa = codes >> 3, codes & 7
    normal = (8.0 + mantissa) * 2.0 ** (exponent - 10.0)
    values = np.where(exponent == 0, mantissa * 2.0**-9, normal)
    values[127] = np.nan
    return values


E4M3 = _e4m3_values()


def to_bf16(x):
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return Raw("BF16", ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16))


def to_e4m3(x):
    """Nearest code, ties to even, saturating at 448. x is finite."""
    middles = (E4M3[:126] + E4M3[1:127]) / 2
    magnitude = np.abs(np.asarray(x, np.float64))
    code = np.searchsorted(middles, magnitude, side="left")  # a tie goes to the lower code ...
    tie = (code < 126) & (magnitude == middles[np.minimum(code, 125)]) & (code % 2 == 1)
    code = code + tie  # ... unless that is odd
    return Raw("F8_E4M3", (code | np.where(np.signbit(x), 0x80, 0)).astype(np.uint8))


def to_float(value, dtype=np.float64):
    """Any tensor as floats."""
    if not isinstance(value, Raw):
        return value.astype(dtype)
    if value.name == "BF16":
        return (value.codes.astype(np.uint32) << 16).view(np.float32).astype(dtype)
    if value.name == "F8_E8M0":
        return (2.0 ** (value.codes.astype(np.float64) - 127)).astype(dtype)
    sign = np.where(value.codes & 0x80, -1.0, 1.0)
    return (sign * E4M3[value.codes & 0x7F]).astype(dtype)


def write(path, tensors):
    """Widest types first, names in order, the header padded to 8 bytes."""
    entries = []
    for name, value in tensors.items():
        array = value.codes if isinstance(value, Raw) else value
        kind = value.name if isinstance(value, Raw) else NAMES[array.dtype.name]
        entries.append((-array.itemsize, name, kind, np.ascontiguousarray(array)))
    entries.sort(key=lambda entry: entry[:2])
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for _, name, kind, array in entries:
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, _, array in entries:
            file.write(array.tobytes())


def read(path):
    with open(path, "rb") as file:
        blob = file.read()
    length = struct.unpack("<Q", blob[:8])[0]
    tensors = {}
    for name, entry in json.loads(blob[8 : 8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        array = np.frombuffer(blob[8 + length + begin : 8 + length + end], TYPES[entry["dtype"]]).reshape(entry["shape"])
        raw = entry["dtype"] in ("BF16", "F8_E4M3", "F8_E8M0")
        tensors[name] = Raw(entry["dtype"], array) if raw else array
    return tensors
