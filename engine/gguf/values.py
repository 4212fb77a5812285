"""Metadata as a mapping with checked getters: what is wrong is said with key, expected, found."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from engine.errors import LayoutError

REQUIRED: Any = object()

Value = "int | float | bool | str | np.ndarray | StringArray"


def escape(text: str) -> str:
    """Text that is safe to print: characters that could steer a terminal become \\x escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class StringArray(Sequence):
    """An array of strings that stays in the file's bytes; an element is decoded when asked for.

    Parameters
    ----------
    data : memoryview
        The file.
    starts : array of 'Q', length n + 1
        Byte offset of each string; the last entry is where an (n+1)-th string would start.
        Eight bytes of length stand before each string.
    """

    __slots__ = ("_data", "_starts")

    def __init__(self, data: memoryview, starts: array):
        self._data = data
        self._starts = starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        n = len(self)
        if not -n <= index < n:
            raise IndexError(index)
        index %= n
        return str(self._data[self._starts[index] : self._starts[index + 1] - 8], "utf-8")

    def __iter__(self) -> Iterator[str]:
        data, starts = self._data, self._starts
        for i in range(len(self)):
            yield str(data[starts[i] : starts[i + 1] - 8], "utf-8")


def describe(value: object) -> str:
    """A metadata value in one short line, for messages."""
    if isinstance(value, StringArray):
        return f"an array of {len(value)} strings"
    if isinstance(value, np.ndarray):
        return f"an array of {len(value)} {value.dtype.name}"
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Metadata(Mapping):
    """Key-value section of a file.

    ``metadata[key]`` is an int, float, bool, str, numpy array (read-only view of the file, bytes
    possibly unaligned) or `StringArray`. The getters check type and range; an absent key gives
    `default`, or an error where there is none.

    Parameters
    ----------
    values, types : dict
        Value and GGUF type name ('u32', 'str', 'i32[]', ...) per key.
    source : str
        File name for messages.
    """

    __slots__ = ("source", "types", "values_")

    def __init__(self, values: dict[str, Any], types: dict[str, str], source: str = "metadata"):
        self.values_ = values
        self.types = types
        self.source = source

    def __getitem__(self, key: str) -> Any:
        return self.values_[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)

    def error(self, key: str, expected: str) -> LayoutError:
        """The error that says what was expected of a key; the caller raises it."""
        found = describe(self.values_[key]) if key in self.values_ else "no such key"
        return LayoutError(f"{self.source}: {key}: expected {expected}, found {found}")

    def get_u32(self, key: str, lo: int = 0, hi: int = 2**32 - 1, default: Any = REQUIRED) -> int:
        """An integer of any GGUF integer type within [lo, hi].

        Raises
        ------
        LayoutError
            If the key is absent without default, not an integer, or out of range.
        """
        if key not in self.values_ and default is not REQUIRED:
            return default
        value = self.values_.get(key)
        if type(value) is not int or not lo <= value <= hi:
            raise self.error(key, f"{lo}" if lo == hi else f"an integer from {lo} to {hi}")
        return value

    def get_f32(self, key: str, lo: float, hi: float, default: Any = REQUIRED) -> float:
        """A finite float within [lo, hi]; errors as `get_u32`."""
        if key not in self.values_ and default is not REQUIRED:
            return default
        value = self.values_.get(key)
        if type(value) is not float or not lo <= value <= hi:
            raise self.error(key, f"a float from {lo:g} to {hi:g}")
        return value

    def get_bool(self, key: str, default: Any = REQUIRED) -> bool:
        """A bool; errors as `get_u32`."""
        if key not in self.values_ and default is not REQUIRED:
            return default
        value = self.values_.get(key)
        if type(value) is not bool:
            raise self.error(key, "a bool")
        return value

    def get_str(self, key: str, default: Any = REQUIRED) -> str:
        """A string, not escaped; errors as `get_u32`."""
        if key not in self.values_ and default is not REQUIRED:
            return default
        value = self.values_.get(key)
        if type(value) is not str:
            raise self.error(key, "a string")
        return value

    def get_strings(self, key: str, default: Any = REQUIRED) -> StringArray:
        """An array of strings, decoded element by element; errors as `get_u32`."""
        if key not in self.values_ and default is not REQUIRED:
            return default
        value = self.values_.get(key)
        if not isinstance(value, StringArray):
            raise self.error(key, "an array of strings")
        return value

    def get_ints(
        self, key: str, lo: int, hi: int, min_len: int = 0, default: Any = REQUIRED
    ) -> np.ndarray:
        """An int64 copy of an integer array whose elements lie within [lo, hi].

        Raises
        ------
        LayoutError
            As `get_u32`; also if the array is shorter than `min_len`.
        """
        if key not in self.values_ and default is not REQUIRED:
            return default
        value = self.values_.get(key)
        expected = f"an array of at least {min_len} integers from {lo} to {hi}"
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu":
            raise self.error(key, expected)
        # Compared before the cast: u64 above 2^63 would turn negative.
        if len(value) < min_len or (len(value) and not (lo <= value.min() and value.max() <= hi)):
            raise self.error(key, expected)
        return value.astype(np.int64)

    def get_floats(
        self, key: str, lo: float, hi: float, min_len: int = 0, default: Any = REQUIRED
    ) -> np.ndarray:
        """A float64 copy of an array of finite floats within [lo, hi]; errors as `get_ints`."""
        if key not in self.values_ and default is not REQUIRED:
            return default
        value = self.values_.get(key)
        expected = f"an array of at least {min_len} floats from {lo:g} to {hi:g}"
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or len(value) < min_len:
            raise self.error(key, expected)
        copy = value.astype(np.float64)
        if not all(math.isfinite(v) and lo <= v <= hi for v in copy):
            raise self.error(key, expected)
        return copy
