"""Rows kept by position, and rows added to residual streams."""

from __future__ import annotations

import numpy as np
from numba import cuda

from engine.ops.cuda.build.kernel import F32, F32P, I32P, U32, kernel
from engine.ops.cuda.build.ptx import add_rn, mul_rn
from engine.ops.cuda.build.types import u32
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context

THREADS = 256


@kernel(F32P, F32P, I32P, U32, U32, U32, threads=THREADS, writes=("ring",))
def ring_rows(ring, rows, pos, cap, width, skip):
    """Grid (rows written, pieces of a row)."""
    i = u32(u32(cuda.blockIdx.x) + skip)
    j = u32(cuda.blockIdx.y * THREADS + cuda.threadIdx.x)
    if j < width:
        at = u32(u32(u32(pos[0]) + i) % cap)
        ring[u32(at * width + j)] = rows[u32(i * width + j)]


@kernel(F32P, F32P, I32P, U32, U32, U32, F32, threads=THREADS, writes=("out",))
def ring_means(out, ring, pos, cap, d, n_hc, share):
    """Grid (pieces of a row, rows): each thread adds one column of all streams, in order."""
    j = u32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
    i = u32(cuda.blockIdx.y)
    if j < d:
        row = u32(u32(u32(pos[0]) + i) % cap)
        at = u32(u32(row * n_hc) * d + j)
        total = ring[at]
        for _ in range(1, n_hc):
            at = u32(at + d)
            total = add_rn(total, ring[at])
        out[u32(i * d + j)] = mul_rn(total, share)


@kernel(F32P, F32P, U32, U32, U32, threads=THREADS, writes=("state",))
def stream_sums(state, y, count, d, n_hc):
    """One thread adds one value of y to every stream."""
    k = u32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
    if k < count:
        row = u32(k // d)
        at = u32(u32(row * n_hc) * d + (k - row * d))
        for _ in range(n_hc):
            state[at] = add_rn(state[at], y[k])
            at = u32(at + d)


def ring_put(
    ctx: Context, ring: DeviceArray, rows: DeviceArray, pos0: DeviceArray, skip: int
) -> None:
    """Write rows[skip:] to a ring indexed by position; rows[0] is at position `pos0`.

    Parameters
    ----------
    ring : float32 DeviceArray of shape (cap, ...)
    rows : float32 DeviceArray of shape (n, ...)
    pos0 : int32 DeviceArray of shape (1,)
        Position of row 0, in device memory.
    skip : int
        At least n - cap: no row of the ring is written twice.
    """
    n, cap = len(rows), len(ring)
    width = rows.size // n
    assert ring.shape[1:] == rows.shape[1:] and n - skip <= cap, (ring, rows, skip)
    ctx.launch(ring_rows, (n - skip, -(-width // THREADS)), ring, rows, pos0, cap, width, skip)
    ctx.wrote(ring)


def ring_mean(ctx: Context, out: DeviceArray, ring: DeviceArray, pos0: DeviceArray) -> None:
    """Mean over the streams of rows pos0, pos0 + 1, ... of a ring indexed by position.

    Parameters
    ----------
    out : float32 DeviceArray of shape (n, n_embd), overwritten
    ring : float32 DeviceArray of shape (cap, n_hc, n_embd)
    pos0 : int32 DeviceArray of shape (1,)
        Position of row 0, in device memory.
    """
    n, d = out.shape
    cap, n_hc, _ = ring.shape
    assert n <= cap and ring.shape[2] == d, (out, ring)
    grid = (-(-d // THREADS), n)
    share = float(np.float32(1 / n_hc))
    ctx.launch(ring_means, grid, out, ring, pos0, cap, d, n_hc, share)
    ctx.wrote(out)


def add_streams(ctx: Context, state: DeviceArray, y: DeviceArray) -> None:
    """Add y (n, n_embd) to every stream of state (n, n_hc, n_embd); float32."""
    n, n_hc, d = state.shape
    assert y.shape == (n, d), (state, y)
    ctx.launch(stream_sums, -(-n * d // THREADS), state, y, n * d, d, n_hc)
    ctx.wrote(state)


def pieces_of(cap: int, pos0: int, n: int) -> list[tuple[int, int, int]]:
    """Runs of a ring: (ring row, first, stop) of rows that lie together; later rows win."""
    pieces = []
    first = max(n - cap, 0)
    while first < n:
        at = (pos0 + first) % cap
        stop = min(n, first + cap - at)
        pieces.append((at, first, stop))
        first = stop
    return pieces
