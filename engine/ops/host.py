"""What kernel sets in host memory have in common: NumPy arrays, rings by position, passes.

`ReferenceOps` and `CpuOps` stand on `HostOps`; a set with memory of its own defines its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from engine.ops.composed import ComposedOps
from engine.ops.device import Bar
from engine.ops.operands import AngleTable, PassKey, Position, Windows
from engine.options import EngineOptions
from engine.sample import check_finite
from engine.weights.tensor import Tensor

ALIGN = 64  # bytes; a vector load of 64 bytes then never crosses two cache lines
NO_ANGLES = np.empty((0, 0), np.float32)
NEVER = np.finfo(np.float32).min  # logit of a banned token


def op(function: Callable[..., Any]) -> Any:
    """A method that is this plain function: it needs nothing of the set, and no call is added."""
    return staticmethod(function)


def new_array(shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> np.ndarray:
    """Zeros starting at a multiple of 64 bytes; pages count once they are written."""
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.zeros(n_bytes + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + n_bytes].view(dtype).reshape(shape)


def ring_put(ring: np.ndarray, rows: np.ndarray, pos0: int, skip: int) -> None:
    """Write rows[skip:] to a ring indexed by position; rows[0] belongs to position pos0.

    By slices: an index array costs 45 us, more than a decoded token's other small steps.
    """
    while skip < len(rows):
        at = (pos0 + skip) % len(ring)
        n = min(len(rows) - skip, len(ring) - at)
        ring[at : at + n] = rows[skip : skip + n]
        skip += n


def ring_set(ring: np.ndarray, first: int, rows: np.ndarray) -> None:
    """Write rows to positions first, first + 1, ... of a ring."""
    ring_put(ring, rows, first, 0)


def ring_get(ring: np.ndarray, first: int, n: int) -> np.ndarray:
    """Rows of n positions from `first` on, as an array of their own."""
    return ring[np.arange(first, first + n) % len(ring)]


def ring_mean(out: np.ndarray, ring: np.ndarray, pos0: int) -> None:
    """Mean over the streams of rows pos0, pos0 + 1, ... of a ring (cap, n_hc, n_embd)."""
    rows = ring_get(ring, pos0, len(out))
    total = rows[:, 0]
    for stream in range(1, rows.shape[1]):
        total = total + rows[:, stream]
    out[...] = total * total.dtype.type(1 / rows.shape[1])


def first_maxima(
    ids: np.ndarray, bad: np.ndarray, rows: np.ndarray, banned: np.ndarray | None
) -> None:
    """First maximum of each row but the banned ids; not 0 where a value is not finite."""
    bad[...] = ~np.isfinite(rows).all(axis=1)
    if banned is not None:
        rows = rows.copy()
        rows[:, banned] = NEVER
    ids[...] = rows.argmax(axis=1)


def draft_report(
    out: np.ndarray,
    hidden: np.ndarray,
    rows: np.ndarray,
    weight: np.ndarray,
    ids: np.ndarray,
    bad: np.ndarray,
) -> None:
    """Logits of confidences, summed in float64 and one order, beside ids as numbers."""
    both = np.concatenate([hidden, rows], axis=1, dtype=np.float64)
    # No product of a linear algebra library, whose order of summation is the machine's.
    out[:, 0] = (both * weight).sum(axis=1)
    out[:, 1] = np.where(bad != 0, np.nan, ids)


def add_streams(state: np.ndarray, y: np.ndarray) -> None:
    """Add y (n, n_embd) to every stream of state (n, n_hc, n_embd)."""
    np.add(state, y[:, None, :], out=state)


def windows(table: AngleTable, pos0: int, n: int, ratio: int) -> Windows:
    """The windows that end in rows pos0 .. pos0+n-1, with their angles."""
    first = pos0 // ratio
    count = (pos0 + n) // ratio - first
    if not count:
        return Windows(ratio, n, 0, NO_ANGLES, NO_ANGLES)
    return Windows(ratio, n, count, *table.at(first * ratio, count, ratio))


def choose(rows: np.ndarray, row: int, banned: np.ndarray) -> int:
    """First maximum of rows[row], none of the banned ids.

    Raises
    ------
    NonFiniteError
        If a value of the row is NaN or infinite.
    """
    logits = rows[row]
    check_finite(logits)
    if banned.size:
        logits = logits.copy()
        logits[banned] = NEVER
    return int(np.argmax(logits))


class HostOps(ComposedOps):
    """Arrays are NumPy's, a position is a number, and a pass is its body."""

    new_array = op(new_array)
    reads_wait = False
    ring_put = op(ring_put)
    ring_set = op(ring_set)
    ring_get = op(ring_get)
    ring_mean = op(ring_mean)
    add_streams = op(add_streams)
    windows = op(windows)
    choose = op(choose)
    first_maxima = op(first_maxima)
    draft_report = op(draft_report)

    def arrange(
        self,
        tensors: Sequence[Tensor],
        drafts: Collection[str],
        options: EngineOptions,
        bar: Bar | None = None,
    ) -> None:
        """Nothing to decide: weights are used in the mapped file, or copied by `prepare`."""

    def vector(self, values: np.ndarray) -> np.ndarray:
        return values

    def new_kv_rows(self, cap: int, dim: int, official: bool) -> np.ndarray:
        """Float32 whatever is stored."""
        return new_array((cap, dim))

    def rope_table(self, table: AngleTable, n_positions: int) -> AngleTable:
        """The table itself, which computes blocks of angles as they are needed."""
        return table

    def rotation(self, table: Any, pos0: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
        return table.at(pos0, n)

    def run(
        self, owner: object, key: PassKey | None, pos0: int, body: Callable[[Position], None]
    ) -> None:
        body(pos0)

    def attend_block(self, out: Any, q: Any, ring: Any, sinks: Any, pos0: Any, before: int) -> None:
        """One query with the heads of all rows: so they see the same keys, loaded once for all."""
        n, n_head, d = q.shape
        one = 1, n * n_head, d
        heads, asked, last = out.reshape(one), q.reshape(one), pos0 + n - 1
        self.attend(heads, asked, ring, None, None, None, sinks, last, before + n, 0)

    def wait(self) -> None:
        """Ops return when they are done."""

    def free_bytes(self) -> int:
        return psutil.virtual_memory().available

    def close(self) -> None:
        """Nothing is held beyond the arrays themselves."""
