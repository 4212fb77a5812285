"""Everything a session remembers per layer: raw ring, compressed rows, compressor rings.

All of it is indexed by position, so going back a few tokens needs no copy: rows behind the new
end are simply overwritten when their positions come again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.shape import Shape

ROLLBACK = 16  # tokens that may be taken back without a snapshot


def ring_rows(ratio: int) -> int:
    """Rows of a compressor's rings: the windows pooling still needs, plus the rollback."""
    return 32 if ratio == 4 else 2 * ratio


def raw_rows(shape: Shape, chunk: int, ctx: int) -> int:
    """Rows of the raw ring: a chunk, the window before it and the rollback, by 256."""
    return -(-min(shape.n_swa + chunk + ROLLBACK, ctx + ROLLBACK + shape.n_swa) // 256) * 256


@dataclass(slots=True)
class LayerCache:
    """One layer's rows; members that a layer of this ratio has no use for are None.

    raw (raw_cap, head_dim), comp (comp_cap, head_dim): rows as the kernel set stores them;
    ring_* (ring_rows, W): float32. All of them are the kernel set's arrays.
    index: the kernel set's own storage of indexer rows.
    """

    ratio: int
    raw: np.ndarray
    comp: np.ndarray = None  # type: ignore[assignment]
    ring_kv: np.ndarray = None  # type: ignore[assignment]
    ring_score: np.ndarray = None  # type: ignore[assignment]
    index: Any = None
    idx_ring_kv: np.ndarray = None  # type: ignore[assignment]
    idx_ring_score: np.ndarray = None  # type: ignore[assignment]


def new_layer(
    ops: Any, shape: Shape, ratio: int, ctx: int, chunk: int, official: bool
) -> LayerCache:
    """Allocate one layer's rows; large arrays are zero pages until they are written."""
    raw = ops.new_kv_rows(raw_rows(shape, chunk, ctx), shape.head_dim, official)
    if not ratio:
        return LayerCache(0, raw)
    cap = ctx // ratio + 1
    rows = ring_rows(ratio)
    width = shape.comp_width(ratio)
    cache = LayerCache(
        ratio,
        raw,
        comp=ops.new_kv_rows(cap, shape.head_dim, official),
        ring_kv=ops.new_array((rows, width)),
        ring_score=ops.new_array((rows, width)),
    )
    if ratio == 4:
        cache.index = ops.new_index_rows(cap, shape.idx_head_dim, official)
        width = shape.idx_comp_width()
        cache.idx_ring_kv = ops.new_array((rows, width))
        cache.idx_ring_score = ops.new_array((rows, width))
    return cache


class KVCache:
    """The rows of all layers of one session."""

    def __init__(self, ops: Any, shape: Shape, ctx: int, chunk: int, official: bool) -> None:
        self.ops = ops
        self.shape = shape
        self.ctx = ctx
        self.layers = [
            new_layer(ops, shape, ratio, ctx, chunk, official) for ratio in shape.compress_ratios
        ]

    def allocated_bytes(self) -> int:
        total = 0
        for layer in self.layers:
            for name in (
                "raw",
                "comp",
                "ring_kv",
                "ring_score",
                "idx_ring_kv",
                "idx_ring_score",
            ):
                array = getattr(layer, name)
                total += 0 if array is None else array.nbytes
            total += 0 if layer.index is None else layer.index.n_bytes
        return total


def context_bytes(shape: Shape, ctx: int, chunk: int, official: bool) -> int:
    """Bytes that a `KVCache` of this size takes once full; computed, nothing is allocated."""
    raw = raw_rows(shape, chunk, ctx)
    # Official indexer rows: one int8 code per value and one float32 scale per 32 values.
    idx_row = shape.idx_head_dim * (1 if official else 4)
    if official:
        idx_row += shape.idx_head_dim // 32 * 4
    total = 0
    for ratio in shape.compress_ratios:
        total += raw * shape.head_dim * 4
        if not ratio:
            continue
        cap = ctx // ratio + 1
        rows = ring_rows(ratio)
        total += cap * shape.head_dim * 4 + 2 * rows * shape.comp_width(ratio) * 4
        if ratio == 4:
            total += cap * idx_row + 2 * rows * shape.idx_comp_width() * 4
    return total
