"""Sums and maxima over the lanes of a warp and the warps of a block, in one fixed order.

Sums and products here and in the row ops are single rounded PTX instructions (`add_rn`, `mul_rn`,
`fma_rn`), so that the compiler cannot fuse them one way in one kernel and another way in the next.
"""

from __future__ import annotations

import math

from numba import cuda

from engine.ops.cuda.build.kernel import device
from engine.ops.cuda.build.ptx import add_rn, fma_rn, shfl_xor_f32
from engine.ops.cuda.build.types import f32, u32

ONE = f32(1)


@device
def warp_sum(x):
    """Sum over the 32 lanes, in every lane."""
    x = add_rn(x, shfl_xor_f32(x, 16))
    x = add_rn(x, shfl_xor_f32(x, 8))
    x = add_rn(x, shfl_xor_f32(x, 4))
    x = add_rn(x, shfl_xor_f32(x, 2))
    return add_rn(x, shfl_xor_f32(x, 1))


@device
def block_sum(x, parts, n_warps):
    """Sum over a block of n_warps full warps, in every thread.

    `parts` is shared float32 memory of 32 values that nothing else uses until the next barrier.
    """
    t = u32(cuda.threadIdx.x)
    lane = t & u32(31)
    x = warp_sum(x)
    if lane == u32(0):
        parts[t >> u32(5)] = x
    cuda.syncthreads()
    y = parts[lane] if lane < u32(n_warps) else f32(0)
    return warp_sum(y)


@device
def inverse_rms(total, d, eps):
    """1 / sqrt(total / d + eps)."""
    return ONE / math.sqrt(add_rn(total / f32(d), eps))


@device
def quads_of(d):
    """How many 16-byte loads a row takes: none when rows do not all start on 16 bytes."""
    return d >> u32(2) if d & u32(3) == u32(0) else u32(0)


@device
def square_quad(total, a, b, c, e):
    """total + a*a + b*b + c*c + e*e, in this order."""
    total = fma_rn(a, a, total)
    total = fma_rn(b, b, total)
    total = fma_rn(c, c, total)
    return fma_rn(e, e, total)
