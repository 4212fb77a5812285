"""The feed-forward products: routed experts, the shared expert, and SwiGLU on its own.

Rows that chose the same expert are multiplied together, so an expert's weights are read once.
Each (row, slot) product lands in its own place, and slots are added in slot order at the end.
"""

from __future__ import annotations

import math

import numpy as np
from numba import get_num_threads

from engine.ops.cpu.activations import swiglu_rows
from engine.ops.cpu.products import (
    D_COLS,
    D_KIND,
    D_N_EXPERT,
    D_ROWS,
    activation_bytes,
    activation_job,
    check_arrays,
    quantisers,
    rows_job,
)
from engine.ops.cpu.runtime.jit import kernel
from engine.ops.cpu.runtime.jobs import (
    A_COLS,
    A_LIMIT,
    A_NEXT,
    A_ROW,
    A_SPLIT,
    A_SRC,
    A_STRIDE,
    A_TABLE,
    A_UP,
    A_WEIGHTS,
    COST,
    FN,
    JOB_BYTES,
    UNITS,
    N,
    run,
    scratch,
)
from engine.ops.cpu.runtime.leaf import leaf, load_i64, stack, store_f32, store_i64
from engine.ops.cpu.simd.ir import F32, emitter, vec
from engine.ops.memory import experts_bytes


def _lanes(ir, n):
    """Offsets of a row of n values: vectors of 16, then single values; yields (address, type)."""
    b = ir.b
    whole = b.lshr(n, ir.c(4))
    done = b.shl(whole, ir.c(4))
    for count, start, of in ((whole, None, vec(F32)), (b.sub(n, done), done, F32)):
        with ir.loop(count) as i:
            if start is None:
                yield b.shl(i, ir.c(6)), of
            else:
                yield b.shl(b.add(start, i), ir.c(2)), of


@emitter
def _move(ir, dst, src, n):
    for at, of in _lanes(ir, n):
        ir.store(ir.load(ir.b.add(src, at), of, 4), ir.b.add(dst, at), 4)


@emitter
def _accumulate(ir, dst, src, n):
    for at, of in _lanes(ir, n):
        to = ir.b.add(dst, at)
        ir.store(ir.b.fadd(ir.load(to, of, 4), ir.load(ir.b.add(src, at), of, 4)), to, 4)


@leaf
def _sum_slots(job, u0, u1):
    """Row u of the output: its slots' rows, in slot order, from where A_TABLE says they are."""
    cols, used = load_i64(job + A_COLS), load_i64(job + A_SPLIT)
    for u in range(u0, u1):
        out = load_i64(job + A_ROW) + u * cols * 4
        for s in range(used):
            at = load_i64(load_i64(job + A_TABLE) + (u * used + s) * 8)
            src = load_i64(job + A_SRC) + at * cols * 4
            if s == 0:
                _move(out, src, cols)
            else:
                _accumulate(out, src, cols)


@leaf
def _add_rows(job, u0, u1):
    cols = load_i64(job + A_COLS)
    for u in range(u0, u1):
        _accumulate(
            load_i64(job + A_ROW) + u * cols * 4, load_i64(job + A_SRC) + u * cols * 4, cols
        )


@kernel
def _round_64(n):
    return (n + 63) // 64 * 64


@kernel
def _swiglu_job(job, fn, gate, up, out, n, cols, limit, weights, follow):
    store_i64(job + FN, fn)
    store_i64(job + N, n)
    store_i64(job + UNITS, n)
    store_i64(job + COST, 32 * cols)
    store_i64(job + A_COLS, cols)
    store_i64(job + A_SRC, gate)
    store_i64(job + A_UP, up)
    store_i64(job + A_ROW, out)
    store_f32(job + A_LIMIT, limit)
    store_f32(job + A_LIMIT + 4, np.float32(1))
    store_i64(job + A_WEIGHTS, weights if weights != 0 else job + A_LIMIT + 4)
    store_i64(job + A_STRIDE, 4 if weights != 0 else 0)
    store_i64(job + A_NEXT, follow)


@kernel
def _rows_fn_job(job, fn, src, table, out, n, cols, split):
    store_i64(job + FN, fn)
    store_i64(job + N, n)
    store_i64(job + UNITS, n)
    store_i64(job + COST, 2 * cols * split)
    store_i64(job + A_COLS, cols)
    store_i64(job + A_SRC, src)
    store_i64(job + A_TABLE, table)
    store_i64(job + A_ROW, out)
    store_i64(job + A_SPLIT, split)


@kernel
def _experts(fns, out, x, ids, weights, n, used, ws, limit, space, n_threads):
    """The routed experts' sum; False where an id is not an expert's."""
    table_fns = load_i64(fns)
    gate_w, up_w, down_w = load_i64(ws), load_i64(ws + 8), load_i64(ws + 16)
    cols, ff = load_i64(gate_w + D_COLS), load_i64(gate_w + D_ROWS)
    n_out, n_expert = load_i64(down_w + D_ROWS), load_i64(gate_w + D_N_EXPERT)
    m = n * used

    first = space  # of each expert's rows in sorted order; then the end of the last
    place = first + _round_64((n_expert + 1) * 8)  # sorted position of each slot
    sorted_weights = place + _round_64(m * 8)
    gate = sorted_weights + _round_64(m * 4)
    up = gate + _round_64(m * ff * 4)
    y = up  # products with down; up is spent by then
    jobs = up + _round_64(m * max(ff, n_out) * 4)
    at = jobs + (2 * min(n_expert, m) + 4) * JOB_BYTES

    for e in range(n_expert + 1):
        store_i64(first + 8 * e, 0)
    for i in range(m):
        e = ids[i]
        if e < 0 or e >= n_expert:
            return False
        store_i64(first + 8 * e + 8, load_i64(first + 8 * e + 8) + 1)
    for e in range(n_expert):
        store_i64(first + 8 * e + 8, load_i64(first + 8 * e + 8) + load_i64(first + 8 * e))
    for i in range(m):
        e = ids[i]
        p = load_i64(first + 8 * e)
        store_i64(first + 8 * e, p + 1)
        store_i64(place + 8 * i, p)
        store_f32(sorted_weights + 4 * p, weights[i])
    # The counting sort has moved every start to the next expert's.
    for e in range(n_expert, 0, -1):
        store_i64(first + 8 * e, load_i64(first + 8 * e - 8))
    store_i64(first, 0)

    tables = stack(64)
    n_jobs = 0
    for kind in range(3):
        if kind == load_i64(gate_w + D_KIND) or kind == load_i64(up_w + D_KIND):
            job = jobs + n_jobs * JOB_BYTES
            natural = activation_job(job, table_fns, kind, x, n, cols, 1, at)
            store_i64(tables + 8 * kind, natural)
            at += activation_bytes(kind, n, cols)
            n_jobs += 1
    run(jobs, n_jobs, n_threads)
    for kind in range(3):
        if kind == load_i64(gate_w + D_KIND) or kind == load_i64(up_w + D_KIND):
            natural = load_i64(tables + 8 * kind)
            for i in range(m):
                row = load_i64(natural + 8 * (i // used))
                store_i64(at + 8 * load_i64(place + 8 * i), row)
            store_i64(tables + 8 * kind, at)
            at += _round_64(8 * m)

    n_jobs = 0
    for e in range(n_expert):
        p = load_i64(first + 8 * e)
        count = load_i64(first + 8 * e + 8) - p
        if count > 0:
            for side in range(2):
                w = gate_w if side == 0 else up_w
                dst = gate if side == 0 else up
                table = load_i64(tables + 8 * load_i64(w + D_KIND)) + 8 * p
                job = jobs + n_jobs * JOB_BYTES
                rows_job(job, w, table, count, dst + 4 * ff * p, 4 * ff, e, 0, ff)
                n_jobs += 1
    run(jobs, n_jobs, n_threads)

    follow = jobs + JOB_BYTES
    kind = load_i64(down_w + D_KIND)
    mid = activation_job(follow, table_fns, kind, gate, m, ff, 1, at)
    _swiglu_job(jobs, load_i64(fns + 8), gate, up, gate, m, ff, limit, sorted_weights, follow)
    run(jobs, 1, n_threads)

    n_jobs = 0
    for e in range(n_expert):
        p = load_i64(first + 8 * e)
        count = load_i64(first + 8 * e + 8) - p
        if count > 0:
            job = jobs + n_jobs * JOB_BYTES
            rows_job(job, down_w, mid + 8 * p, count, y + 4 * n_out * p, 4 * n_out, e, 0, n_out)
            n_jobs += 1
    run(jobs, n_jobs, n_threads)
    _rows_fn_job(jobs, load_i64(fns + 16), y, place, out, n, n_out, used)
    run(jobs, 1, n_threads)
    return True


@kernel
def _routed(fns, out, x, ids, weights, gate, up, down, limit, space, n_threads):
    ws = stack(64)
    store_i64(ws, gate)
    store_i64(ws + 8, up)
    store_i64(ws + 16, down)
    n, used = ids.shape
    return _experts(
        fns,
        out.ctypes.data,
        x.ctypes.data,
        ids.ravel(),
        weights.ravel(),
        n,
        used,
        ws,
        limit,
        space,
        n_threads,
    )


_functions: list = []


def _fns() -> int:
    """Address of the table of leaves that the feed-forward needs; compiled on first use."""
    if not _functions:
        leaves = (swiglu_rows.address, _sum_slots.address)
        table = np.array([quantisers(), *leaves], np.int64)
        _functions.extend((table, table.ctypes.data))
    return _functions[1]


def _clamp(limit: float) -> np.float32:
    """The limit as kernels take it: infinity where the file means none."""
    return np.float32(limit if limit > 1e-6 else math.inf)


def moe_bytes(n: int, used: int, gate, down) -> int:
    """Working memory of `routed_moe` with n rows; kept by the thread for later calls."""
    return experts_bytes(n, used, gate.n_expert, gate.rows, down.rows)


def routed_moe(out, x, ids, weights, gate, up, down, limit) -> None:
    """Sum of the chosen experts' feed-forwards, in slot order.

    Per slot: g = gate[id] @ x, u = up[id] @ x; g is clamped above at limit and u to +-limit where
    limit > 1e-6; mid = silu(g) * u * weight; the slot's part is down[id] @ mid.

    Parameters
    ----------
    out : float32 array of shape (n, n_embd), overwritten
    x : float32 array of shape (n, n_embd)
    ids : int32 array of shape (n, n_used), experts per slot
    weights : float32 array of shape (n, n_used)
    gate, up : Weight of n_expert matrices (n_ff, n_embd)
    down : Weight of n_expert matrices (n_embd, n_ff)
    limit : float
    """
    n, used = ids.shape
    assert x.shape == (n, gate.cols) and out.shape == (n, down.rows), (out.shape, x.shape)
    assert weights.shape == ids.shape and ids.dtype == np.int32, (weights.shape, ids.dtype)
    assert (up.rows, up.cols, down.cols) == (gate.rows, gate.cols, gate.rows), (gate, up, down)
    check_arrays(out, x, weights)
    assert ids.flags.c_contiguous, ids.strides
    space = scratch(moe_bytes(n, used, gate, down))
    known = _routed(
        _fns(),
        out,
        x,
        ids,
        weights,
        gate.address,
        up.address,
        down.address,
        _clamp(limit),
        space,
        get_num_threads(),
    )
    assert known, f"ids: expected 0 to {gate.n_expert - 1}, found {ids.min()} to {ids.max()}"


def shared_ffn(out, x, gate, up, down, limit) -> None:
    """The shared expert: as `routed_moe` with one expert of weight 1; bits of the separate ops.

    Parameters
    ----------
    out : float32 array of shape (n, n_embd), overwritten
    x : float32 array of shape (n, n_embd)
    gate, up, down : Weight
    limit : float
    """
    n = x.shape[0]
    routed_moe(
        out,
        x,
        np.zeros((n, 1), np.int32),
        np.ones((n, 1), np.float32),
        gate,
        up,
        down,
        limit,
    )


@kernel
def _swiglu(fns, out, gate, up, limit, space, n_threads):
    n, cols = gate.shape
    fn = load_i64(fns + 8)
    _swiglu_job(space, fn, gate.ctypes.data, up.ctypes.data, out.ctypes.data, n, cols, limit, 0, 0)
    run(space, 1, n_threads)


@kernel
def _add(fn, out, x, space, n_threads):
    n, cols = x.shape
    _rows_fn_job(space, fn, x.ctypes.data, 0, out.ctypes.data, n, cols, 1)
    run(space, 1, n_threads)


def swiglu(out, gate, up, limit) -> None:
    """SwiGLU: out = silu(min(gate, limit)) * clip(up, -limit, limit), no clamp at limit <= 1e-6.

    Parameters
    ----------
    out : float32 array of shape (n, n_ff), overwritten; may be gate or up
    gate, up : float32 arrays of shape (n, n_ff)
    limit : float
    """
    assert out.shape == gate.shape == up.shape, (out.shape, gate.shape, up.shape)
    check_arrays(out, gate, up)
    _swiglu(_fns(), out, gate, up, _clamp(limit), scratch(JOB_BYTES), get_num_threads())


def add(out, x) -> None:
    """out += x, float32 arrays of shape (n, d)."""
    assert out.shape == x.shape, (out.shape, x.shape)
    check_arrays(out, x)
    _add(_add_rows.address, out, x, scratch(JOB_BYTES), get_num_threads())
