"""Compressed KV rows: windows pooled per dim by a softmax over their gates; rings by position."""

from __future__ import annotations

import math

from numba import cuda

from engine.ops.cuda.build.kernel import F32P, I32P, U32, device, kernel
from engine.ops.cuda.build.ptx import add_rn, fma_rn, sub_rn
from engine.ops.cuda.build.scalar import exp
from engine.ops.cuda.build.types import f32, i32, u32
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.rows.kv import store_rows
from engine.ops.operands import Windows

GROUPS = 8  # warps of a block: each takes an eighth of a window's candidates
LANES = 32  # dims of a block
LOWEST = f32(-math.inf)


@device
def _score(ring_score, score, ape, position, pos0, column, ratio, rows, width):
    """Score of a candidate position, ape included (ring rows include it)."""
    if position < pos0:
        return ring_score[u32(u32(u32(position) % rows) * width + column)]
    bias = ape[u32(u32(u32(position) % ratio) * width + column)]
    return add_rn(score[u32(u32(position - pos0) * width + column)], bias)


@kernel(
    F32P,
    F32P,
    F32P,
    F32P,
    F32P,
    F32P,
    I32P,
    U32,
    U32,
    U32,
    U32,
    U32,
    U32,
    U32,
    threads=GROUPS * LANES,
    writes=("pooled", "ring_kv", "ring_score"),
)
def compressor_windows(
    pooled, ring_kv, ring_score, kv, score, ape, pos, n, ratio, rows, d, width, n_pool, kept
):
    """Blocks x < n_pool pool a window each; the others write row kept + x - n_pool to the rings."""
    tops = cuda.shared.array((GROUPS, LANES), f32)
    totals = cuda.shared.array((GROUPS, LANES), f32)
    values = cuda.shared.array((GROUPS, LANES), f32)
    x = u32(cuda.blockIdx.x)
    t = u32(cuda.threadIdx.x)
    pos0 = i32(pos[0])
    if x < n_pool:
        # A window that ends in the call: which candidates it has, and which of them this warp.
        first = u32(u32(pos0) // ratio)
        if x < u32(u32(u32(pos0) + n) // ratio) - first:
            lane, group = t & u32(31), t >> u32(5)
            dim = u32(u32(cuda.blockIdx.y) * u32(LANES) + lane)
            start = i32((first + x) * ratio)
            # The window before gives its first half; a window at position 0 has none before it.
            double = u32(ratio == u32(4))
            count = u32(ratio << double)
            begin = i32(start - i32(count - ratio))
            each = u32((count + u32(GROUPS - 1)) // u32(GROUPS))
            low = u32(group * each)
            high = u32(min(low + each, count)) if dim < d else u32(0)
            # The greatest score of the warp's candidates, then of all.
            top = LOWEST
            for m in range(low, high):
                position = i32(begin + m)
                if position >= 0:
                    column = dim if position < start else u32(width - d + dim)
                    s = _score(ring_score, score, ape, position, pos0, column, ratio, rows, width)
                    top = s if s > top else top
            tops[group, lane] = top
            cuda.syncthreads()
            for g in range(GROUPS):
                top = tops[g, lane] if tops[g, lane] > top else top
            # Weights and weighted values of the warp's candidates, then of all.
            total = f32(0)
            value = f32(0)
            for m in range(low, high):
                position = i32(begin + m)
                if position >= 0:
                    column = dim if position < start else u32(width - d + dim)
                    s = _score(ring_score, score, ape, position, pos0, column, ratio, rows, width)
                    e = exp(sub_rn(s, top))
                    total = add_rn(total, e)
                    if position < pos0:
                        v = ring_kv[u32(u32(u32(position) % rows) * width + column)]
                    else:
                        v = kv[u32(u32(position - pos0) * width + column)]
                    value = fma_rn(e, v, value)
            totals[group, lane] = total
            values[group, lane] = value
            cuda.syncthreads()
            if group == u32(0) and dim < d:
                for g in range(1, GROUPS):
                    total = add_rn(total, totals[g, lane])
                    value = add_rn(value, values[g, lane])
                pooled[u32(x * d + dim)] = value / total
    else:
        # A row of the call is remembered, its score with ape added.
        i = u32(kept + x - n_pool)
        position = u32(u32(pos0) + i)
        wide = u32(width // d * u32(LANES))
        j = u32(u32(cuda.blockIdx.y) * wide + t)
        if t < wide and j < width:
            at = u32(u32(position % rows) * width + j)
            ring_kv[at] = kv[u32(i * width + j)]
            bias = ape[u32(u32(position % ratio) * width + j)]
            ring_score[at] = add_rn(score[u32(i * width + j)], bias)


def compressor_pool(
    ctx: Context,
    pooled: DeviceArray,
    ring_kv: DeviceArray,
    ring_score: DeviceArray,
    kv: DeviceArray,
    score: DeviceArray,
    ape: DeviceArray,
    pos0: DeviceArray,
    ratio: int,
) -> None:
    """Pool every window that ends within this call, then remember the call's last positions.

    Parameters
    ----------
    pooled : float32 DeviceArray of shape ((n + ratio - 1) // ratio, d)
        Row i is overwritten with window pos // ratio + i, if that ends in the call.
    ring_kv, ring_score : float32 DeviceArrays of shape (ring_rows, W)
        W = 2 * d for ratio 4, else d.
    kv, score : float32 DeviceArrays of shape (n, W)
    ape : float32 DeviceArray of shape (ratio, W)
    pos0 : int32 DeviceArray of shape (1,)
        Position of row 0, in device memory.
    ratio : int
    """
    n, width = kv.shape
    rows = len(ring_kv)
    n_pool, d = pooled.shape
    candidates = 2 * ratio if ratio == 4 else ratio
    assert width == (2 * d if ratio == 4 else d), (kv, pooled, ratio)
    assert n_pool == (n + ratio - 1) // ratio, (pooled, n, ratio)
    assert ring_kv.shape == ring_score.shape == (rows, width) and rows >= candidates, ring_kv
    assert score.shape == kv.shape and ape.shape == (ratio, width), (score, ape)
    kept = max(n - rows, 0)
    columns = -(-d // LANES)
    arrays = (pooled, ring_kv, ring_score, kv, score, ape, pos0)
    sizes = (n, ratio, rows, d, width)
    # Windows read positions from pos - candidates + 1 on; rows that replace none of these may be
    # written by the same launch.
    if n + candidates - 1 <= rows:
        ctx.launch(compressor_windows, (n_pool + n, columns), *arrays, *sizes, n_pool, kept)
    else:
        ctx.launch(compressor_windows, (n_pool, columns), *arrays, *sizes, n_pool, kept)
        ctx.launch(compressor_windows, (n - kept, columns), *arrays, *sizes, 0, kept)
    ctx.wrote(pooled, ring_kv, ring_score)


def compressor_store(
    ctx: Context,
    rows: DeviceArray,
    pooled: DeviceArray,
    weight: DeviceArray,
    windows: Windows,
    pos0: DeviceArray,
    eps: float,
    official: bool,
) -> None:
    """Finish pooled rows as `kv_store` does and write window w to rows[w].

    Parameters
    ----------
    rows : DeviceArray of shape (cap, head_dim), float32, or float16 for official rows
    pooled : float32 DeviceArray of shape ((n + ratio - 1) // ratio, head_dim)
    weight : float32 DeviceArray of shape (head_dim,)
    windows : Windows
        Those that do not end in the call's n rows are left alone. cos and sin hold every position,
        (n_positions, n_rot // 2); those of the first position of each row's own window are taken.
    pos0 : int32 DeviceArray of shape (1,)
        Position of row 0, in device memory.
    eps : float
    official : bool
    """
    cos, sin = windows.cos, windows.sin
    assert isinstance(cos, DeviceArray) and isinstance(sin, DeviceArray), windows
    store_rows(ctx, rows, windows.ratio, windows.n, pooled, weight, cos, sin, pos0, eps, official)
