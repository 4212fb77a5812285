"""Everything a session remembers per layer: raw ring, compressed rows, compressor rings.

All of it is indexed by position, so going back a few tokens needs no copy: rows behind the new
end are simply overwritten when their positions come again.
"""

from __future__ import annotations

from engine.ops.base import Backend
from engine.ops.operands import Compressed, Indexed, LayerCache, Rings
from engine.shape import Shape

ROLLBACK = 16  # tokens that may be taken back without a snapshot


def ring_rows(ratio: int) -> int:
    """Rows of a compressor's rings: the windows pooling still needs, plus the rollback."""
    return 32 if ratio == 4 else 2 * ratio


def raw_rows(shape: Shape, chunk: int, ctx: int) -> int:
    """Rows of the raw ring: a chunk, the window before it and the rollback, by 256."""
    return -(-min(shape.n_swa + chunk + ROLLBACK, ctx + ROLLBACK + shape.n_swa) // 256) * 256


def block_rows(n_swa: int, block: int) -> int:
    """Rows that a stage of a DSpark drafter keeps: a window, a block and the rollback, by 256."""
    return -(-(n_swa + block + ROLLBACK) // 256) * 256


def new_layer(
    ops: Backend, shape: Shape, ratio: int, ctx: int, chunk: int, official: bool
) -> LayerCache:
    """Allocate one layer's rows; large arrays are zero pages until they are written."""
    raw = ops.new_kv_rows(raw_rows(shape, chunk, ctx), shape.head_dim, official)
    cache = LayerCache(ratio, raw)
    cap = ctx // ratio + 1 if ratio else 0
    if ratio:
        rows = ops.new_kv_rows(cap, shape.head_dim, official)
        cache.compressed = Compressed(rows, _rings(ops, ratio, shape.comp_width(ratio)))
    if ratio == 4:
        index = ops.new_index_rows(cap, shape.idx_head_dim, official)
        cache.indexed = Indexed(index, _rings(ops, ratio, shape.idx_comp_width()))
    return cache


def _rings(ops: Backend, ratio: int, width: int) -> Rings:
    kv, score = (ops.new_array((ring_rows(ratio), width)) for _ in range(2))
    return Rings(kv, score)


class KVCache:
    """The rows of all layers of one session."""

    def __init__(self, ops: Backend, shape: Shape, ctx: int, chunk: int, official: bool) -> None:
        self.ops = ops
        self.shape = shape
        self.ctx = ctx
        self.layers = [
            new_layer(ops, shape, ratio, ctx, chunk, official) for ratio in shape.compress_ratios
        ]

    def allocated_bytes(self) -> int:
        """Bytes of all arrays, written or not."""
        total = 0
        for layer in self.layers:
            total += layer.raw.nbytes
            for part in (layer.compressed, layer.indexed):
                if part is not None:
                    total += part.rings.kv.nbytes + part.rings.score.nbytes
            if layer.compressed is not None:
                total += layer.compressed.rows.nbytes
            if layer.indexed is not None:
                total += layer.indexed.rows.n_bytes
        return total
