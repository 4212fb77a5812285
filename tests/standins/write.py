"""Writes GGUF files whose header is whole and whose tensor data are holes of a sparse file.

Knows the container only. Block sizes come from the `gguf` package, never from the code under test;
types that the package does not know are given with their size.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf

_SCALARS = {
    "u8": (0, "<B"), "i8": (1, "<b"), "u16": (2, "<H"), "i16": (3, "<h"), "u32": (4, "<I"),
    "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?"), "u64": (10, "<Q"), "i64": (11, "<q"),
    "f64": (12, "<d"),
}  # fmt: skip
_STRING, _ARRAY = 8, 9
# Types of other programs: id, values and bytes of a block.
OTHERS = {"NVFP4": (40, 64, 36), "FP8": (42, 128, 129), "IQ4_K": (139, 256, 144)}


@dataclass(frozen=True)
class Key:
    """A key with its GGUF type ('u32', 'str', 'f32[]', ...) and value."""

    name: str
    kind: str
    value: object


@dataclass(frozen=True)
class Entry:
    """A tensor of the directory; dimensions in GGUF's order, the contiguous one first."""

    name: str
    kind: str
    dims: tuple[int, ...]

    @property
    def type_id(self) -> int:
        if self.kind in OTHERS:
            return OTHERS[self.kind][0]
        return int(gguf.GGMLQuantizationType[self.kind])

    @property
    def n_bytes(self) -> int:
        block_len, block_bytes = (
            OTHERS[self.kind][1:]
            if self.kind in OTHERS
            else gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[self.kind]]
        )
        return math.prod(self.dims) // block_len * block_bytes


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _key(key: Key) -> bytes:
    head = _text(key.name)
    if key.kind == "str":
        return head + struct.pack("<I", _STRING) + _text(str(key.value))
    if not key.kind.endswith("[]"):
        number, code = _SCALARS[key.kind]
        return head + struct.pack("<I", number) + struct.pack(code, key.value)
    values = list(key.value)  # type: ignore[call-overload]
    kind = key.kind.removesuffix("[]")
    number = _STRING if kind == "str" else _SCALARS[kind][0]
    head += struct.pack("<IIQ", _ARRAY, number, len(values))
    if kind == "str":
        return head + b"".join(map(_text, values))
    return head + struct.pack(f"<{len(values)}{_SCALARS[kind][1][1]}", *values)


def write(
    path: Path, keys: Sequence[Key], entries: Sequence[Entry], alignment: int = 32, step: int = 0
) -> int:
    """Write a file; returns the offset of its data.

    Parameters
    ----------
    alignment : int
        Of tensors and of the data; says so to nobody, that is `general.alignment`'s business.
    step : int
        Tensors start at multiples of it where it is not 0, so that gaps lie between them.
    """
    infos, offset = [], 0
    for entry in entries:
        offset = _up(offset, step or alignment)
        infos.append(
            _text(entry.name)
            + struct.pack(f"<I{len(entry.dims)}Q", len(entry.dims), *entry.dims)
            + struct.pack("<IQ", entry.type_id, offset)
        )
        offset = _up(offset + entry.n_bytes, alignment)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(entries), len(keys))
    head += b"".join(map(_key, keys)) + b"".join(infos)
    base = _up(len(head), alignment)
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(base + offset)
    return base


def _up(n: int, step: int) -> int:
    return -(-n // step) * step
