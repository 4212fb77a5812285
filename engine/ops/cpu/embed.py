"""Token rows into the residual streams."""

from __future__ import annotations

import numpy as np

from engine.ops.cpu.formats.dot_f32 import SLAB
from engine.ops.cpu.products import (
    D_BLOCK_BYTES,
    D_BLOCKS,
    D_COLS,
    D_DATA,
    D_DECODE,
    D_PACK,
    D_PACKED,
    D_PANEL_BLOCK,
    D_PANEL_BYTES,
    D_ROW_BYTES,
    D_ROWS,
    SPACE_F32,
)
from engine.ops.cpu.runtime.jit import kernel
from engine.ops.cpu.runtime.jobs import (
    COST,
    FN,
    LD_OUT,
    OUT,
    TABLE,
    UNITS,
    N,
    W,
    run,
    scratch,
    team,
)
from engine.ops.cpu.runtime.leaf import (
    call3,
    call5,
    leaf,
    load_f32,
    load_i32,
    load_i64,
    stack,
    store_f32,
    store_i64,
)


@leaf
def _embed(job, u0, u1):
    """Rows TABLE[u] of the weight, decoded, into LD_OUT copies each."""
    w, copies = load_i64(job + W), load_i64(job + LD_OUT)
    cols, blocks = load_i64(w + D_COLS), load_i64(w + D_BLOCKS)
    block_len = cols // blocks
    slab = SLAB // block_len
    space = stack(SPACE_F32)
    decoded = stack(SPACE_F32)
    for u in range(u0, u1):
        row = np.int64(load_i32(load_i64(job + TABLE) + 4 * u))
        out = load_i64(job + OUT) + u * copies * cols * 4
        lane = 0
        for b0 in range(0, blocks, slab):
            nb = min(slab, blocks - b0)
            if load_i64(w + D_PACKED) != 0:
                lane = row % 16
                panel = load_i64(w + D_DATA) + row // 16 * load_i64(w + D_PANEL_BYTES)
                panel += b0 * load_i64(w + D_PANEL_BLOCK)
            else:
                stride = load_i64(w + D_ROW_BYTES)
                src = load_i64(w + D_DATA) + row * stride + b0 * load_i64(w + D_BLOCK_BYTES)
                panel = space
                call5(load_i64(w + D_PACK), src, stride, 1, nb, panel)
            if load_i64(w + D_DECODE) != 0:
                call3(load_i64(w + D_DECODE), panel, nb, decoded)
                panel = decoded
            for k in range(nb * block_len):
                value = load_f32(panel + 64 * k + 4 * lane)
                for c in range(copies):
                    store_f32(out + (c * cols + b0 * block_len + k) * 4, value)


@kernel
def _run(fn, state, tokens, w, space, team):
    n, copies, cols = state.shape
    rows = load_i64(w + D_ROWS)
    for i in range(n):
        if tokens[i] < 0 or tokens[i] >= rows:
            return False
    store_i64(space + FN, fn)
    store_i64(space + N, n)
    store_i64(space + UNITS, n)
    store_i64(space + COST, 16 * cols)
    store_i64(space + W, w)
    store_i64(space + TABLE, tokens.ctypes.data)
    store_i64(space + OUT, state.ctypes.data)
    store_i64(space + LD_OUT, copies)
    run(space, 1, team)
    return True


def embed_hc(state: np.ndarray, tokens: np.ndarray, table) -> None:
    """Copy each token's row of the embedding to all of its streams.

    Parameters
    ----------
    state : float32 array of shape (n, n_hc, n_embd), overwritten
    tokens : int32 array of shape (n,)
    table : Weight of n_vocab rows; dequantised exactly
    """
    n = tokens.shape[0]
    assert state.shape[0] == n and state.shape[2] == table.cols, (state.shape, tokens.shape, table)
    assert state.flags.c_contiguous and state.dtype == np.float32, state.dtype
    assert tokens.flags.c_contiguous and tokens.dtype == np.int32, tokens.dtype
    known = _run(_embed.address, state, tokens, table.decoding(), scratch(128), team())
    assert known, f"tokens: expected 0 to {table.rows - 1}, found {tokens.min()} to {tokens.max()}"
