"""What kernel sets in host memory answer alike: arrays, position rings, windows, programs.

`reference` and `cpu` take these as they are; a set with memory of its own defines its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import psutil

# Names of `FUSED` that a set offers beside the single ops (see `engine.ops`).
FUSED: frozenset[str] = frozenset()

ALIGN = 64  # bytes; a vector load of 64 bytes then never crosses two cache lines


def new_array(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """Zeros starting at a multiple of 64 bytes; pages count once they are written."""
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.zeros(n_bytes + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + n_bytes].view(dtype).reshape(shape)


def new_kv_rows(cap: int, dim: int, official: bool) -> np.ndarray:
    """Storage of raw or compressed rows: float32 (cap, dim) whatever is stored."""
    return new_array((cap, dim))


def vector(values: np.ndarray) -> np.ndarray:
    """A small tensor's values as the ops take them."""
    return values


def rope_table(table: Any, n_positions: int) -> Any:
    """Rotary angles as the ops take them: the table itself, which computes blocks as needed."""
    return table


def windows(pos0: int, n: int, ratio: int) -> tuple[int, int]:
    """First of the windows that end in rows pos0 .. pos0+n-1, and how many do."""
    first = pos0 // ratio
    return first, (pos0 + n) // ratio - first


def run(owner: object, key: Hashable, pos0: int, body: Callable[[], None]) -> None:
    """Run a pass; a set that records passes may replay the owner's earlier one with this key."""
    body()


def ring_put(ring: np.ndarray, rows: np.ndarray, pos0: int, skip: int = 0) -> None:
    """Write rows[skip:] to a ring indexed by position; rows[0] belongs to position pos0."""
    ring[np.arange(pos0 + skip, pos0 + len(rows)) % len(ring)] = rows[skip:]


def ring_set(ring: np.ndarray, pos0: int, rows: np.ndarray) -> None:
    """Write host rows (a snapshot's) to positions pos0, pos0+1, ... of a ring."""
    ring_put(ring, rows, pos0)


def ring_get(ring: np.ndarray, pos0: int, n: int) -> np.ndarray:
    """Rows of n positions from pos0 on, as an array of their own."""
    return ring[np.arange(pos0, pos0 + n) % len(ring)]


def add_streams(state: np.ndarray, y: np.ndarray) -> None:
    """Add y (n, n_embd) to every stream of state (n, n_hc, n_embd)."""
    np.add(state, y[:, None, :], out=state)


def free_bytes() -> int:
    """Memory that is free for weights, rows and activations."""
    return psutil.virtual_memory().available


def close() -> None:
    """Nothing is held beyond the arrays themselves."""


def wait() -> None:
    """Everything that was asked for is done."""
