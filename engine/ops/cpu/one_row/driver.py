"""Groups of 16 weight rows in place times a single row of int8 activations."""

from __future__ import annotations

from engine.ops.cpu.products import (
    D_BLOCK_BYTES,
    D_BLOCKS,
    D_DATA,
    D_EXPERT_BYTES,
    D_ONE,
    D_ONE_SLAB,
    D_ROW_BYTES,
    D_ROWS,
    clear,
    store_group,
)
from engine.ops.cpu.runtime.jobs import EXPERT, ROW_LOW, TABLE, W
from engine.ops.cpu.runtime.leaf import call8, leaf, load_i64, stack

# Bytes that are read between the request of a block and its use; memory takes as long as the core
# needs for some thousands. Rows follow each other, so whole rows further on comes what is next.
_AHEAD = 8192


@leaf
def rows_one(job, u0, u1):
    """As `products.rows_int8` for N = 1 and a weight that is not repacked."""
    w, expert = load_i64(job + W), load_i64(job + EXPERT)
    x = load_i64(load_i64(job + TABLE))
    blocks, slab = load_i64(w + D_BLOCKS), load_i64(w + D_ONE_SLAB)
    rows, stride = load_i64(w + D_ROWS), load_i64(w + D_ROW_BYTES)
    matrix = load_i64(w + D_DATA) + expert * load_i64(w + D_EXPERT_BYTES)
    product = load_i64(w + D_ONE)
    reach = (_AHEAD // (min(slab, blocks) * load_i64(w + D_BLOCK_BYTES)) + 1) * stride
    acc = stack(64)
    g0 = load_i64(job + ROW_LOW) // 16
    for g in range(g0 + u0, g0 + u1):
        clear(acc, 1)
        src, n_rows = matrix + 16 * g * stride, min(16, rows - 16 * g)
        for b0 in range(0, blocks, slab):
            nb = min(slab, blocks - b0)
            call8(product, acc, src, stride, n_rows, x, b0, nb, reach)
        store_group(job, g, acc, 0, 1)
