"""GGUF bytes to metadata and a tensor directory; no number is used before it is checked.

Works on any buffer and touches no file. Format: GGUF versions 2 and 3, little endian (source:
the GGUF specification in ggml's docs). Tensors lie in the order of the directory and do not
overlap; gaps between them are legal, as page-aligned files have. Stricter than the specification
where ggml's own parser is: names and keys are unique. Limits that the specification leaves open
are the constants below.
"""

from __future__ import annotations

import math
import struct
from array import array
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from engine.errors import GGUFError
from engine.gguf.values import StringArray
from engine.quant.formats import BY_ID, Format, unreadable_words

MIN_SIZE = 24  # header without keys or tensors
MAX_KEYS = 65_536
MAX_TENSORS = 65_536
MAX_KEY_BYTES = 65_535
MAX_STRING_BYTES = 64 << 20
MAX_ELEMENTS = 16 << 20
MAX_NAME_BYTES = 63
MAX_DIMS = 4
MIN_ALIGNMENT = 8  # so that every F32 and I32 tensor is aligned for its element
MAX_ALIGNMENT = 1 << 20
DEFAULT_ALIGNMENT = 32

_MIN_KV_BYTES = 14  # length, one byte of key, type, one byte of value
_MIN_INFO_BYTES = 33  # length, one byte of name, n_dims, one dim, type, offset

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_BOOL, _STRING, _ARRAY = 7, 8, 9
_SCALARS: dict[int, tuple[str, struct.Struct, np.dtype]] = {
    0: ("u8", struct.Struct("<B"), np.dtype("<u1")),
    1: ("i8", struct.Struct("<b"), np.dtype("<i1")),
    2: ("u16", struct.Struct("<H"), np.dtype("<u2")),
    3: ("i16", struct.Struct("<h"), np.dtype("<i2")),
    4: ("u32", struct.Struct("<I"), np.dtype("<u4")),
    5: ("i32", struct.Struct("<i"), np.dtype("<i4")),
    6: ("f32", struct.Struct("<f"), np.dtype("<f4")),
    7: ("bool", struct.Struct("<B"), np.dtype("<u1")),
    10: ("u64", struct.Struct("<Q"), np.dtype("<u8")),
    11: ("i64", struct.Struct("<q"), np.dtype("<i8")),
    12: ("f64", struct.Struct("<d"), np.dtype("<f8")),
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies: shape row-major, offsets in bytes from the start of the file."""

    name: str
    format: Format
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """Everything before the tensor data; `end` is the byte after the tensor directory."""

    version: int
    alignment: int
    values: dict[str, Any]
    types: dict[str, str]
    tensors: tuple[TensorInfo, ...]
    end: int


def parse(buffer: Any) -> Header:
    """Read the header of a GGUF file and check it against the file's length.

    Parameters
    ----------
    buffer : bytes-like
        The whole file. Arrays and string arrays of the result are views of it.

    Raises
    ------
    GGUFError
        The only exception, whatever the bytes are.
    """
    return _Parser(memoryview(buffer)).header()


def _fail(subject: str, expected: str, found: object) -> NoReturn:
    raise GGUFError(f"{subject}: expected {expected}, found {found}")


class _Parser:
    __slots__ = ("data", "pos", "size")

    def __init__(self, data: memoryview):
        self.data = data
        self.size = len(data)
        self.pos = 0

    def take(self, n: int, subject: str) -> int:
        """Advance over n bytes that must exist; returns where they start."""
        pos = self.pos
        if n > self.size - pos:
            _fail(subject, f"{n} bytes at offset {pos}", f"{self.size - pos} left in the file")
        self.pos = pos + n
        return pos

    def u32(self, subject: str) -> int:
        return _U32.unpack_from(self.data, self.take(4, subject))[0]

    def u64(self, subject: str) -> int:
        return _U64.unpack_from(self.data, self.take(8, subject))[0]

    def text(self, subject: str, limit: int) -> str:
        n = self.u64(subject)
        if n > limit:
            _fail(subject, f"at most {limit} bytes", n)
        pos = self.take(n, subject)
        try:
            return str(self.data[pos : pos + n], "utf-8")
        except UnicodeDecodeError as error:
            _fail(subject, "UTF-8", f"byte {error.object[error.start]:#04x} at {pos + error.start}")

    def label(self, subject: str, limit: int) -> str:
        """A key or a tensor name: not empty, and safe to print."""
        text = self.text(subject, limit)
        if not text or not text.isprintable():
            _fail(subject, "a name of printable characters", ascii(text[:64]))
        return text

    def header(self) -> Header:
        version, n_tensors, n_keys = self.preamble()
        values: dict[str, Any] = {}
        types: dict[str, str] = {}
        for i in range(n_keys):
            key = self.label(f"key {i}", MAX_KEY_BYTES)
            if key in values:
                _fail(f"key {i}", "a new key", f"{key!a} for the second time")
            values[key], types[key] = self.value(f"value of {key[:64]!a}")
        alignment = self.alignment(values, types)
        infos = self.infos(n_tensors)
        end = self.pos
        return Header(version, alignment, values, types, self.place(infos, alignment), end)

    def preamble(self) -> tuple[int, int, int]:
        if self.size < MIN_SIZE:
            _fail("header", f"at least {MIN_SIZE} bytes", self.size)
        magic = bytes(self.data[:4])
        if magic != b"GGUF":
            _fail("header", "magic b'GGUF'", magic)
        self.pos = 4
        version = self.u32("version")
        if version not in (2, 3):
            if version & 0xFFFF == 0 and version:
                _fail("version", "2 or 3, little endian", f"{version:#010x}, a big-endian file")
            _fail("version", "2 or 3", version)
        n_tensors = self.u64("tensor count")
        n_keys = self.u64("key count")
        left = self.size - self.pos
        if n_keys > min(MAX_KEYS, left // _MIN_KV_BYTES):
            _fail("key count", f"at most {MAX_KEYS} and room for each", n_keys)
        if n_tensors > min(MAX_TENSORS, left // _MIN_INFO_BYTES):
            _fail("tensor count", f"at most {MAX_TENSORS} and room for each", n_tensors)
        return version, n_tensors, n_keys

    def value(self, subject: str) -> tuple[Any, str]:
        kind = self.u32(subject)
        if kind == _STRING:
            return self.text(subject, MAX_STRING_BYTES), "str"
        if kind == _ARRAY:
            return self.array(subject)
        if kind not in _SCALARS:
            _fail(subject, "a value type from 0 to 12", kind)
        name, code, _ = _SCALARS[kind]
        value = code.unpack_from(self.data, self.take(code.size, subject))[0]
        if kind == _BOOL:
            if value > 1:
                _fail(subject, "a bool, 0 or 1", value)
            value = value == 1
        return value, name

    def array(self, subject: str) -> tuple[Any, str]:
        kind = self.u32(subject)
        n = self.u64(subject)
        if n > MAX_ELEMENTS:
            _fail(subject, f"at most {MAX_ELEMENTS} elements", n)
        if kind == _STRING:
            return self.strings(n, subject), "str[]"
        if kind not in _SCALARS:
            _fail(subject, "an array of numbers, bools or strings", f"element type {kind}")
        name, _, dtype = _SCALARS[kind]
        pos = self.take(n * dtype.itemsize, subject)
        # frombuffer refuses an empty slice at the very end of a buffer.
        values = np.frombuffer(self.data, dtype, n, pos) if n else np.empty(0, dtype)
        if kind == _BOOL:
            if n and values.max() > 1:
                _fail(subject, "bools, 0 or 1", int(values.max()))
            values = values.view(np.bool_)
        return values, name + "[]"

    def strings(self, n: int, subject: str) -> StringArray:
        data, pos, size = self.data, self.pos, self.size
        if n > (size - pos) // 8:
            _fail(subject, f"{n} strings", f"{size - pos} bytes left in the file")
        unpack = _U64.unpack_from
        starts = array("Q")
        try:
            for _ in range(n):
                # Past the end unpack raises struct.error; a length past it fails the comparison.
                length = unpack(data, pos)[0]
                pos += 8
                if length > size - pos or length > MAX_STRING_BYTES:
                    _fail(f"{subject}, string {len(starts)}", "its bytes in the file", length)
                starts.append(pos)
                str(data[pos : pos + length], "utf-8")
                pos += length
        except struct.error:
            _fail(f"{subject}, string {len(starts)}", "a length", "the end of the file")
        except UnicodeDecodeError:
            _fail(f"{subject}, string {len(starts) - 1}", "UTF-8", "other bytes")
        starts.append(pos + 8)
        self.pos = pos
        return StringArray(data, starts)

    def alignment(self, values: dict[str, Any], types: dict[str, str]) -> int:
        key = "general.alignment"
        if key not in values:
            return DEFAULT_ALIGNMENT
        if types[key] != "u32":
            _fail(key, "a u32", types[key])
        value = values[key]
        if not MIN_ALIGNMENT <= value <= MAX_ALIGNMENT or value & (value - 1):
            _fail(key, f"a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}", value)
        return value

    def infos(self, n_tensors: int) -> list[tuple[str, Format, tuple[int, ...], int]]:
        infos = []
        seen: set[str] = set()
        for i in range(n_tensors):
            name = self.label(f"name of tensor {i}", MAX_NAME_BYTES)
            if name in seen:
                _fail(f"tensor {i}", "a new name", f"{name!a} for the second time")
            seen.add(name)
            subject = f"tensor {name!a}"
            n_dims = self.u32(subject)
            if not 1 <= n_dims <= MAX_DIMS:
                _fail(subject, f"1 to {MAX_DIMS} dimensions", n_dims)
            dims = [self.u64(subject) for _ in range(n_dims)]
            if 0 in dims:
                _fail(subject, "dimensions of at least 1", dims)
            type_id = self.u32(subject)
            if type_id not in BY_ID:
                _fail(subject, "a tensor type that can be read", unreadable_words(type_id))
            fmt = BY_ID[type_id]
            if dims[0] % fmt.block_len:
                _fail(subject, f"rows of whole {fmt.name} blocks of {fmt.block_len}", dims[0])
            infos.append((name, fmt, tuple(reversed(dims)), self.u64(subject)))
        return infos

    def place(self, infos: list, alignment: int) -> tuple[TensorInfo, ...]:
        """Check that tensors are aligned, in order, apart from one another, within the file."""
        base = _align(self.pos, alignment)
        free = 0  # first byte behind the tensors so far
        placed = []
        for name, fmt, shape, offset in infos:
            if offset % alignment:
                _fail(f"tensor {name!a}", f"an offset that is a multiple of {alignment}", offset)
            if offset < free:
                _fail(f"tensor {name!a}", f"offset {free} or more, behind its predecessor", offset)
            start = base + offset
            n_bytes = math.prod(shape) // fmt.block_len * fmt.block_bytes
            if n_bytes > self.size - start:
                _fail(
                    f"tensor {name!a}",
                    f"{n_bytes} bytes at offset {start}",
                    f"{max(0, self.size - start)} left in the file",
                )
            placed.append(TensorInfo(name, fmt, shape, start, start + n_bytes))
            free = offset + n_bytes
        return tuple(placed)


def _align(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment
