"""The feed-forward products: routed experts, the shared expert, and SwiGLU on its own.

Rows that chose the same expert are multiplied together, so an expert's weights are read once.
Each (row, slot) product lands in its own place, and slots are added in slot order at the end. The
compiled phases are in `moe_kernels`; here arguments are checked and working memory is found.
"""

from __future__ import annotations

import math

import numpy as np

from engine.ops.cpu.activations import swiglu_rows
from engine.ops.cpu.moe_kernels import (
    add_rows,
    get_entry,
    routed,
    rows_fn_job,
    sum_slots,
    swiglu_job,
)
from engine.ops.cpu.products import check_arrays, quantisers
from engine.ops.cpu.runtime.jit import kernel
from engine.ops.cpu.runtime.jobs import JOB_BYTES, run, scratch
from engine.ops.cpu.runtime.team import team
from engine.ops.memory import experts_bytes

_functions: list = []


def _fns() -> int:
    """Address of a table of addresses; the leaves are compiled on first use.

    Entry 0 is the table of quantisers by kind, 1 the leaf of SwiGLU, 2 the leaf that adds slots.
    """
    if not _functions:
        leaves = (swiglu_rows.address, sum_slots.address)
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
    known = routed(
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
        team(),
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
def _swiglu(fns, out, gate, up, limit, space, team):
    n, cols = gate.shape
    fn = get_entry(fns, 1)
    swiglu_job(space, fn, gate.ctypes.data, up.ctypes.data, out.ctypes.data, n, cols, limit, 0, 0)
    run(space, 1, team)


@kernel
def _add(fn, out, x, space, team):
    n, cols = x.shape
    rows_fn_job(space, fn, x.ctypes.data, 0, out.ctypes.data, n, cols, 1)
    run(space, 1, team)


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
    _swiglu(_fns(), out, gate, up, _clamp(limit), scratch(JOB_BYTES), team())


def add(out, x) -> None:
    """out += x, float32 arrays of shape (n, d)."""
    assert out.shape == x.shape, (out.shape, x.shape)
    check_arrays(out, x)
    _add(add_rows.address, out, x, scratch(JOB_BYTES), team())
