"""Activations of one pass, allocated once per session and viewed at the row count of each call."""

from __future__ import annotations

import numpy as np

from engine.ops.activations import Activations, first_rows, layout
from engine.ops.base import Backend
from engine.ops.operands import Array
from engine.shape import Shape

MOST_VIEWS = 64  # row counts whose views are kept


def scratch_bytes(shape: Shape, chunk: int) -> int:
    """Bytes of a `Scratch` of this many rows, logits rows excluded."""
    return chunk * sum(
        int(np.prod(dims, dtype=np.int64)) * np.dtype(dtype).itemsize
        for dims, dtype in layout(shape).values()
    )


class Scratch:
    """Arrays of `rows` rows; `view(n)` gives the first n of each, kept for the usual n."""

    def __init__(self, ops: Backend, shape: Shape, rows: int) -> None:
        self.rows = rows
        self._shape = shape
        self._arrays: dict[str, Array] = {
            name: ops.new_array((rows, *dims), dtype)
            for name, (dims, dtype) in layout(shape).items()
        }
        self._views: dict[int, Activations] = {}

    def view(self, n: int) -> Activations:
        """Activations of n rows, at most `rows`; views of one memory whatever n."""
        view = self._views.get(n)
        if view is None:
            view = first_rows(self._arrays, self._shape, n)
            if len(self._views) > MOST_VIEWS:
                self._views.clear()
            self._views[n] = view
        return view
