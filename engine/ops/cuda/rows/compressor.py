"""Compressed KV rows: windows pooled per dim by a softmax over their gates; rings by position."""

from __future__ import annotations

import math

from numba import cuda, float32, int32, uint32

from engine.ops.cuda.build.kernel import F32P, I32P, U32, device, kernel
from engine.ops.cuda.build.ptx import add_rn, fma_rn, sub_rn
from engine.ops.cuda.build.scalar import exp
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.rows.kv import store_rows
from engine.ops.operands import Windows

GROUPS = 8  # warps of a block: each takes an eighth of a window's candidates
LANES = 32  # dims of a block
LOWEST = float32(-math.inf)


@device
def _score(ring_score, score, ape, position, pos0, column, ratio, rows, width):
    """Score of a candidate position, ape included (ring rows include it)."""
    if position < pos0:
        return ring_score[uint32(uint32(uint32(position) % rows) * width + column)]
    bias = ape[uint32(uint32(uint32(position) % ratio) * width + column)]
    return add_rn(score[uint32(uint32(position - pos0) * width + column)], bias)


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
)
def compressor_windows(
    pooled, ring_kv, ring_score, kv, score, ape, pos, n, ratio, rows, d, width, n_pool, kept
):
    """Blocks x < n_pool pool a window each; the others write row kept + x - n_pool to the rings."""
    tops = cuda.shared.array((GROUPS, LANES), float32)
    totals = cuda.shared.array((GROUPS, LANES), float32)
    values = cuda.shared.array((GROUPS, LANES), float32)
    x = uint32(cuda.blockIdx.x)
    t = uint32(cuda.threadIdx.x)
    pos0 = int32(pos[0])
    if x < n_pool:
        first = uint32(uint32(pos0) // ratio)
        if x < uint32(uint32(uint32(pos0) + n) // ratio) - first:
            lane, group = t & uint32(31), t >> uint32(5)
            dim = uint32(uint32(cuda.blockIdx.y) * uint32(LANES) + lane)
            start = int32((first + x) * ratio)
            # The window before gives its first half; a window at position 0 has none before it.
            double = uint32(ratio == uint32(4))
            count = uint32(ratio << double)
            begin = int32(start - int32(count - ratio))
            each = uint32((count + uint32(GROUPS - 1)) // uint32(GROUPS))
            low = uint32(group * each)
            high = uint32(min(low + each, count)) if dim < d else uint32(0)
            top = LOWEST
            for m in range(low, high):
                position = int32(begin + m)
                if position >= 0:
                    column = dim if position < start else uint32(width - d + dim)
                    s = _score(ring_score, score, ape, position, pos0, column, ratio, rows, width)
                    top = s if s > top else top
            tops[group, lane] = top
            cuda.syncthreads()
            for g in range(GROUPS):
                top = tops[g, lane] if tops[g, lane] > top else top
            total = float32(0)
            value = float32(0)
            for m in range(low, high):
                position = int32(begin + m)
                if position >= 0:
                    column = dim if position < start else uint32(width - d + dim)
                    s = _score(ring_score, score, ape, position, pos0, column, ratio, rows, width)
                    e = exp(sub_rn(s, top))
                    total = add_rn(total, e)
                    if position < pos0:
                        v = ring_kv[uint32(uint32(uint32(position) % rows) * width + column)]
                    else:
                        v = kv[uint32(uint32(position - pos0) * width + column)]
                    value = fma_rn(e, v, value)
            totals[group, lane] = total
            values[group, lane] = value
            cuda.syncthreads()
            if group == uint32(0) and dim < d:
                for g in range(1, GROUPS):
                    total = add_rn(total, totals[g, lane])
                    value = add_rn(value, values[g, lane])
                pooled[uint32(x * d + dim)] = value / total
    else:
        i = uint32(kept + x - n_pool)
        position = uint32(uint32(pos0) + i)
        wide = uint32(width // d * uint32(LANES))
        j = uint32(uint32(cuda.blockIdx.y) * wide + t)
        if t < wide and j < width:
            at = uint32(uint32(position % rows) * width + j)
            ring_kv[at] = kv[uint32(i * width + j)]
            bias = ape[uint32(uint32(position % ratio) * width + j)]
            ring_score[at] = add_rn(score[uint32(i * width + j)], bias)


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
