"""Products of activation rows with prepared weights: `matmul` and its grouped and multiple forms.

One loop serves every format: for 16 rows of the weight, take their panel (a repacked weight has
it in memory; otherwise it is made here, in cache) and multiply it with tiles of 8, 4, 2 and 1
rows of x. A panel has one arithmetic, so an output does not depend on how its row was reached.
"""

from __future__ import annotations

import numpy as np

from engine.ops.cpu.activations import (
    quantise_32,
    quantise_256,
    row_bytes,
    take_f32,
)
from engine.ops.cpu.runtime.jit import kernel
from engine.ops.cpu.runtime.jobs import (
    A_COLS,
    A_ROW,
    A_SPLIT,
    A_SRC,
    A_STRIDE,
    A_TABLE,
    COST,
    EXPERT,
    FN,
    JOB_BYTES,
    LD_OUT,
    OUT,
    ROW_HIGH,
    ROW_LOW,
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
    load_i64,
    stack,
    store_f32,
    store_i64,
)
from engine.ops.cpu.simd.ir import F32, emitter, vec
from engine.ops.cpu.simd.vec import prefetch_at
from engine.ops.memory import product_bytes

# Byte offsets of a weight's int64 fields.
(
    D_ROWS_FN,
    D_DATA,
    D_ROWS,
    D_COLS,
    D_BLOCKS,
    D_PACKED,
    D_ROW_BYTES,
    D_BLOCK_BYTES,
    D_EXPERT_BYTES,
    D_PANEL_BYTES,
    D_PANEL_BLOCK,
    D_PACK,
    D_DECODE,
    D_DOT1,
    D_DOT2,
    D_DOT4,
    D_DOT8,
    D_SLAB,
    D_KIND,
    D_N_EXPERT,
    D_ONE_FN,
    D_ONE,
    D_ONE_SLAB,
) = range(0, 23 * 8, 8)
N_FIELDS = 23

_TILE = 64  # rows of x that pass over a panel before the next panel is taken
# Bytes of stack in which a slab of a panel is made, of int8 and of f32 products; the second is also
# the room of a slab's values. `formats.weight` checks that no format's slab takes more.
SPACE_INT8, SPACE_F32 = 36864, 16384


@emitter
def clear(ir, acc, n):
    with ir.loop(n) as i:
        ir.store(ir.const(0.0, vec(F32)), ir.at(acc, (i, 64)), 64)


@emitter
def _copy(ir, src, dst, n, ld_dst):
    with ir.loop(n) as i:
        ir.store(ir.load(ir.at(src, (i, 64)), vec(F32), 64), ir.b.add(dst, ir.b.mul(i, ld_dst)), 4)


@kernel
def store_group(job, g, acc, t0, n):
    """Copy the rows of group g that belong to the job to its output."""
    low, high = load_i64(job + ROW_LOW), load_i64(job + ROW_HIGH)
    ld = load_i64(job + LD_OUT)
    first = max(low - 16 * g, 0)
    last = min(high - 16 * g, 16)
    out = load_i64(job + OUT) + t0 * ld + (16 * g + first - low) * 4
    if last - first == 16:
        _copy(acc, out, n, ld)
    else:
        for t in range(n):
            for r in range(first, last):
                store_f32(out + t * ld + (r - first) * 4, load_f32(acc + t * 64 + r * 4))


@kernel
def _ask(src, stride, n_bytes):
    """Ask for n_bytes of each of 16 rows ahead of their use; addresses need not be valid."""
    for r in range(16):
        for at in range(0, n_bytes, 64):
            prefetch_at(src + r * stride + at)


@kernel
def panel_slab(w, expert, g, b0, n_blocks, space):
    """Panel of blocks b0.. of group g: in the repacked weight, or made in `space`."""
    if load_i64(w + D_PACKED) != 0:
        panel = load_i64(w + D_DATA) + expert * load_i64(w + D_EXPERT_BYTES)
        return panel + g * load_i64(w + D_PANEL_BYTES) + b0 * load_i64(w + D_PANEL_BLOCK)
    stride, block = load_i64(w + D_ROW_BYTES), load_i64(w + D_BLOCK_BYTES)
    rows = load_i64(w + D_DATA) + expert * load_i64(w + D_EXPERT_BYTES) + 16 * g * stride
    n_rows = min(16, load_i64(w + D_ROWS) - 16 * g)
    src = rows + b0 * block
    call5(load_i64(w + D_PACK), src, stride, n_rows, n_blocks, space)
    # Sixteen rows are more streams than a core foresees. What comes next is the rest of these
    # rows, or the next 16, which follow in memory.
    rest = load_i64(w + D_BLOCKS) - b0 - n_blocks
    if rest > 0:
        _ask(src + n_blocks * block, stride, min(n_blocks, rest) * block)
    else:
        _ask(rows + 16 * stride, stride, n_blocks * block)
    return space


@leaf
def rows_int8(job, u0, u1):
    """Groups of 16 weight rows times the job's n rows of int8 activations."""
    w, table = load_i64(job + W), load_i64(job + TABLE)
    n, expert = load_i64(job + N), load_i64(job + EXPERT)
    blocks, slab = load_i64(w + D_BLOCKS), load_i64(w + D_SLAB)
    dot1, dot2 = load_i64(w + D_DOT1), load_i64(w + D_DOT2)
    dot4, dot8 = load_i64(w + D_DOT4), load_i64(w + D_DOT8)
    acc = stack(4096)
    space = stack(SPACE_INT8)
    g0 = load_i64(job + ROW_LOW) // 16
    for t0 in range(0, n, _TILE):
        rows = min(_TILE, n - t0)
        for g in range(g0 + u0, g0 + u1):
            clear(acc, rows)
            for b0 in range(0, blocks, slab):
                nb = min(slab, blocks - b0)
                panel = panel_slab(w, expert, g, b0, nb, space)
                t = 0
                while t + 8 <= rows:
                    call5(dot8, acc + 64 * t, panel, table + (t0 + t) * 8, b0, nb)
                    t += 8
                if t + 4 <= rows:
                    call5(dot4, acc + 64 * t, panel, table + (t0 + t) * 8, b0, nb)
                    t += 4
                if t + 2 <= rows:
                    call5(dot2, acc + 64 * t, panel, table + (t0 + t) * 8, b0, nb)
                    t += 2
                if t < rows:
                    call5(dot1, acc + 64 * t, panel, table + (t0 + t) * 8, b0, nb)
            store_group(job, g, acc, t0, rows)


@leaf
def rows_f32(job, u0, u1):
    """Groups of 16 weight rows, decoded to f32, times the job's n rows of f32 activations."""
    w, table = load_i64(job + W), load_i64(job + TABLE)
    n, expert = load_i64(job + N), load_i64(job + EXPERT)
    blocks, slab = load_i64(w + D_BLOCKS), load_i64(w + D_SLAB)
    block_len = load_i64(w + D_COLS) // blocks
    dot1, dot2 = load_i64(w + D_DOT1), load_i64(w + D_DOT2)
    dot4, dot8 = load_i64(w + D_DOT4), load_i64(w + D_DOT8)
    decode = load_i64(w + D_DECODE)
    acc = stack(4096)
    space = stack(SPACE_F32)
    decoded = stack(SPACE_F32)
    g0 = load_i64(job + ROW_LOW) // 16
    for t0 in range(0, n, _TILE):
        rows = min(_TILE, n - t0)
        for g in range(g0 + u0, g0 + u1):
            clear(acc, rows)
            for b0 in range(0, blocks, slab):
                nb = min(slab, blocks - b0)
                panel = panel_slab(w, expert, g, b0, nb, space)
                if decode != 0:
                    call3(decode, panel, nb, decoded)
                    panel = decoded
                k0, nk = b0 * block_len, nb * block_len
                t = 0
                while t + 8 <= rows:
                    call5(dot8, acc + 64 * t, panel, table + (t0 + t) * 8, k0, nk)
                    t += 8
                if t + 4 <= rows:
                    call5(dot4, acc + 64 * t, panel, table + (t0 + t) * 8, k0, nk)
                    t += 4
                if t + 2 <= rows:
                    call5(dot2, acc + 64 * t, panel, table + (t0 + t) * 8, k0, nk)
                    t += 2
                if t < rows:
                    call5(dot1, acc + 64 * t, panel, table + (t0 + t) * 8, k0, nk)
            store_group(job, g, acc, t0, rows)


@kernel
def rows_job(job, w, table, n, out, ld_out, expert, low, high):
    """Fill a job: rows low..high-1 of an expert's weight times n rows of the table."""
    store_i64(job + FN, load_i64(w + (D_ONE_FN if n == 1 else D_ROWS_FN)))
    store_i64(job + N, n)
    store_i64(job + UNITS, (high + 15) // 16 - low // 16)
    store_i64(job + COST, 16 * n * load_i64(w + D_COLS))
    store_i64(job + W, w)
    store_i64(job + TABLE, table)
    store_i64(job + OUT, out)
    store_i64(job + LD_OUT, ld_out)
    store_i64(job + EXPERT, expert)
    store_i64(job + ROW_LOW, low)
    store_i64(job + ROW_HIGH, high)


@kernel
def activation_job(job, quantisers, kind, src, n, cols, split, space):
    """Fill a job that puts n rows into the form of `kind`; table and rows go to `space`.

    Returns the table's address; the rows follow it.
    """
    rows = space + (8 * n + 63) // 64 * 64
    store_i64(job + FN, load_i64(quantisers + 8 * kind))
    store_i64(job + N, n)
    store_i64(job + UNITS, n)
    store_i64(job + COST, 4 * cols)
    store_i64(job + A_COLS, cols)
    store_i64(job + A_SRC, src)
    store_i64(job + A_TABLE, space)
    store_i64(job + A_ROW, rows)
    store_i64(job + A_STRIDE, row_bytes(kind, cols))
    store_i64(job + A_SPLIT, split)
    return space


@kernel
def activation_bytes(kind, n, cols):
    """Bytes of `space` that `activation_job` uses."""
    return (8 * n + 63) // 64 * 64 + n * row_bytes(kind, cols)


@kernel
def _products(quantisers, x, n, split, pairs, n_pairs, space, team):
    """All weights of `pairs` (weight, output) times the rows of x; `split` groups share x."""
    jobs = space
    w0 = load_i64(pairs)
    cols = load_i64(w0 + D_COLS)
    at = space + (max(n_pairs * split, 3) * JOB_BYTES + 63) // 64 * 64
    tables = stack(64)
    n_jobs = 0
    for kind in range(3):
        needed = False
        for p in range(n_pairs):
            needed |= load_i64(load_i64(pairs + 16 * p) + D_KIND) == kind
        if needed:
            job = jobs + n_jobs * JOB_BYTES
            table = activation_job(job, quantisers, kind, x, n * split, cols, split, at)
            store_i64(tables + 8 * kind, table)
            at += activation_bytes(kind, n * split, cols)
            n_jobs += 1
    run(jobs, n_jobs, team)
    for p in range(n_pairs):
        w = load_i64(pairs + 16 * p)
        out = load_i64(pairs + 16 * p + 8)
        rows = load_i64(w + D_ROWS)
        table = load_i64(tables + 8 * load_i64(w + D_KIND))
        each = rows // split
        for s in range(split):
            job = jobs + (p * split + s) * JOB_BYTES
            first = table + 8 * n * s
            rows_job(job, w, first, n, out + 4 * each * s, 4 * rows, 0, each * s, each * (s + 1))
    run(jobs, n_pairs * split, team)


@kernel
def _one(quantisers, out, x, n, split, w, space, team):
    pairs = stack(64)
    store_i64(pairs, w)
    store_i64(pairs + 8, out.ctypes.data)
    _products(quantisers, x.ctypes.data, n, split, pairs, 1, space, team)


_quantisers: list = []


def quantisers() -> int:
    """Address of the table of quantising leaves, by kind; compiled on first use."""
    if not _quantisers:
        table = np.zeros(3, np.int64)
        table[:] = [f.address for f in (take_f32, quantise_32, quantise_256)]
        _quantisers.extend((table, table.ctypes.data))
    return _quantisers[1]


def matmul(out: np.ndarray, x: np.ndarray, w) -> None:
    """Products of rows: out = x @ w.T.

    Parameters
    ----------
    out : float32 array of shape (n, w.rows), overwritten
    x : float32 array of shape (n, w.cols)
    w : Weight
    """
    n = x.shape[0]
    assert x.shape == (n, w.cols) and out.shape == (n, w.rows), (out.shape, x.shape, w)
    check_arrays(out, x)
    space = scratch(product_bytes(1, n, w.cols))
    _one(w.quantisers, out, x, n, 1, w.address, space, team())


def matmul_grouped(out: np.ndarray, x: np.ndarray, w) -> None:
    """Products per group: out[:, g] = x[:, g] @ w[g * r : (g + 1) * r].T.

    Parameters
    ----------
    out : float32 array of shape (n, n_group, r), overwritten
    x : float32 array of shape (n, n_group, w.cols)
    w : Weight of n_group * r rows
    """
    n, groups, r = out.shape
    assert x.shape == (n, groups, w.cols) and groups * r == w.rows, (out.shape, x.shape, w)
    check_arrays(out, x)
    space = scratch(product_bytes(groups, n * groups, w.cols))
    _one(
        w.quantisers,
        out.reshape(n, -1),
        x.reshape(n, -1),
        n,
        groups,
        w.address,
        space,
        team(),
    )


@kernel
def _several(quantisers, x, n, pairs, n_pairs, space, team):
    _products(quantisers, x.ctypes.data, n, 1, pairs.ctypes.data, n_pairs, space, team)


def matmul_multi(outs, x: np.ndarray, ws) -> None:
    """Several weights times the same rows, in one parallel region; the bits of `matmul`.

    Parameters
    ----------
    outs : sequence of float32 arrays of shape (n, w.rows), overwritten
    x : float32 array of shape (n, cols)
    ws : sequence of Weight, all with the columns of x
    """
    n, cols = x.shape
    pairs = np.empty((len(ws), 2), np.int64)
    for i, (out, w) in enumerate(zip(outs, ws, strict=True)):
        assert w.cols == cols and out.shape == (n, w.rows), (out.shape, x.shape, w)
        check_arrays(out, x)
        pairs[i, 0] = w.address
        pairs[i, 1] = out.ctypes.data
    space = scratch(product_bytes(len(ws), n, cols))
    _several(ws[0].quantisers, x, n, pairs, len(ws), space, team())


def check_arrays(*arrays: np.ndarray) -> None:
    """Kernels take contiguous float32 only."""
    for a in arrays:
        assert a.flags.c_contiguous and a.dtype == np.float32, (a.strides, a.dtype)
