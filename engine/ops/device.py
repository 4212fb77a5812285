"""Where a kernel set computes: its memory, its weights, its passes, and what it says of itself.

This is the half of the seam (see `engine.ops.base`) that knows nothing of the model but that it
has weights, rows by position and tables of angles.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from engine.ops.operands import (
    AngleTable,
    Array,
    IndexRows,
    PassKey,
    Position,
    Rotation,
    Weight,
    Windows,
)
from engine.options import EngineOptions
from engine.weights.tensor import Tensor

__all__ = ["Bar", "Device", "LaunchTime", "PassTimes"]


# Called with all bytes that will be read; returns what is called with bytes done.
Bar = Callable[[int], Callable[[int], None]]


class LaunchTime(NamedTuple):
    """One launch of a recorded pass, measured by itself.

    Parameters
    ----------
    kernel : str
        Its name; 'copy' or 'fill' for those.
    grid : tuple of int
        Blocks in each dimension; empty for copies and fills.
    seconds : float
        On the device, the gap to the next one included.
    weight_bytes : int
        Bytes of weights that it reads; of experts, the expected share.
    """

    kernel: str
    grid: tuple[int, ...]
    seconds: float
    weight_bytes: int


class PassTimes(NamedTuple):
    """The launches of a recorded pass, in order.

    Parameters
    ----------
    pos0 : int
        Position of its first row, while it was measured: where it ran last.
    launches : list of LaunchTime
    """

    pos0: int
    launches: list[LaunchTime]


class Device(Protocol):
    """Memory and passes of a kernel set.

    Attributes
    ----------
    reads_wait : bool
        Whether reading an array on the host waits for a device, so that few reads are worth
        computing ahead for.
    """

    reads_wait: bool

    # Opening a model

    def set_threads(self, n: int | None) -> int:
        """Compute with n threads, None for all; returns how many will be used."""

    def arrange(
        self,
        tensors: Sequence[Tensor],
        drafts: Collection[str],
        options: EngineOptions,
        bar: Bar | None = None,
    ) -> None:
        """Decide where weights will live, before any is prepared.

        `tensors` are all matrices that will be, `drafts` the names of those of the MTP block;
        `options` say what the user wants. `bar` is called with the bytes that a set reads ahead,
        if there are any, and returns what is called with bytes done.

        Raises
        ------
        MemoryBudgetError
            If what must be copied does not fit; nothing was copied.
        """

    def prepare(self, tensor: Tensor, *, activations: str, repack: bool) -> Weight:
        """Turn a file tensor into what the products and `embed_hc` take.

        `activations` is 'int8' or 'f32' (see `EngineOptions`), `repack` asks for an interleaved
        copy; both choose among the forms that a set has, and a set may have only one.
        """

    def vector(self, values: np.ndarray) -> Array:
        """A small tensor's values, float32 or int32, as an array of the set."""

    def facts(self) -> Mapping[str, object]:
        """What a record needs to know of the set and its machine; plain JSON values."""

    def notices(self) -> list[str]:
        """What a user should know before the first pass, one sentence each."""

    def free_bytes(self) -> int:
        """Memory that is free for weights, rows and activations."""

    def close(self) -> None:
        """Let go of everything that is not an array."""

    # Memory

    def new_array(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
        """Zeros."""

    def new_kv_rows(self, cap: int, dim: int, official: bool) -> Array:
        """Storage of `cap` raw or compressed rows of `dim` values, as the set keeps them.

        `official` rows are rounded before they are stored (see `EngineOptions.kv`).
        """

    def new_index_rows(self, cap: int, dim: int, official: bool) -> IndexRows:
        """Storage of `cap` indexer rows of `dim` values; FP4 if `official`."""

    def ring_set(self, ring: Array, first: int, rows: np.ndarray) -> None:
        """Write host rows to positions first, first + 1, ... of a ring, between passes."""

    def ring_get(self, ring: Array, first: int, n: int) -> Array:
        """Rows of n positions from `first` on, between passes; may be a view of the ring."""

    # Passes

    def rope_table(self, table: AngleTable, n_positions: int) -> object:
        """The table of angles as `rotation` and `windows` of this set take it."""

    def run(
        self, owner: object, key: PassKey | None, pos0: int, body: Callable[[Position], None]
    ) -> None:
        """Run a pass at position pos0: ``body(position)``, or replay what its owner ran under key.

        A body calls ops and nothing else that matters, on the same arrays each time for one owner
        and key; only the position may differ. With key None it is run as it is.
        """

    def wait(self) -> None:
        """Return when everything that was asked for is done."""

    def time_passes(self, owner: object) -> dict[PassKey, PassTimes]:
        """Every launch of an owner's recorded passes, measured one by one in its order.

        Runs each once more where it ran last; empty for a set that records none.
        """

    def rotation(self, table: object, pos0: Position, n: int) -> Rotation:
        """Cosines and sines of rows pos0 .. pos0 + n - 1, for the ops of this pass."""

    def windows(self, table: object, pos0: Position, n: int, ratio: int) -> Windows:
        """The windows of `ratio` positions that end in rows pos0 .. pos0 + n - 1 of this pass."""

    def ring_put(self, ring: Array, rows: Array, pos0: Position, skip: int) -> None:
        """Write rows[skip:] to a ring by position, row i to ``(pos0 + i) % len(ring)``.

        `skip` is at least len(rows) - len(ring): no row of the ring is written twice.
        """
