"""One window of a compressor pooled by one block, and one row of a call written to its rings.

For kernels that do several things at once; `compressor` has the op, with a window's candidates on
several warps. Both add up in the same order.
"""

from __future__ import annotations

import math
from typing import Any

from numba import cuda

from engine.ops.cuda.build.arguments import ArgumentBlock
from engine.ops.cuda.build.kernel import F32P, device
from engine.ops.cuda.build.ptx import (
    add_rn,
    address,
    fma_rn,
    ld_nc_v2_f32,
    ld_nc_v4_f32,
    ld_v2_f32,
    st_v2_f32,
    st_v4_f32,
    sub_rn,
)
from engine.ops.cuda.build.reduce import quads_of
from engine.ops.cuda.build.scalar import exp
from engine.ops.cuda.build.types import f32, i32, u32
from engine.ops.cuda.rows.compressor import GROUPS
from engine.ops.cuda.rows.kv import THREADS

LOWEST = f32(-math.inf)
ZERO = f32(0)


POOLING = ArgumentBlock(
    "Pooling",
    pooled=(F32P, "(n_pool, d), written: pooled windows"),
    ring_kv=(F32P, "(ring_rows, width), written: values of rows whose window is not whole"),
    ring_score=(F32P, "(ring_rows, width), written: their scores, with ape added"),
    kv=(F32P, "(n, width): values of the call's rows"),
    score=(F32P, "(n, width): their scores"),
    ape=(F32P, "(ratio, width): what is added to scores, by place in the window"),
)


def window_pooler(ratio: int) -> Any:
    """Device function: a block pools one window as `compressor_windows` does, a pair per thread.

    Candidates are loaded a batch at a time, all of it before any is used.
    """
    double = 2 if ratio == 4 else 1
    count = double * ratio
    each = count // GROUPS  # candidates of a group
    batch = max(each, GROUPS)
    lead = count - ratio  # candidates of the window before

    @device
    def pair(ring, own, bias, biased, position, pos0, column, rows, width):
        """A pair of a candidate's values, or of its scores."""
        known = u32(position if position > 0 else 0)
        before = known < u32(pos0)
        at = u32(known % rows) if before else u32(known - u32(pos0))
        start = address(ring) if before else address(own)
        a, b = ld_v2_f32(start + u32(at * width + column) * 4)
        if biased:
            at = u32(u32(known % u32(ratio)) * width + column)
            u, v = ld_nc_v2_f32(address(bias) + at * 4)
            a = a if before else add_rn(a, u)
            b = b if before else add_rn(b, v)
        return a, b

    @device
    def pool_window(arrays, pos0, row, window, rows, d, width):
        """Row `row` of pooled: a window of `arrays`, a kernel's block `POOLING`."""
        ring_kv, ring_score = arrays.ring_kv, arrays.ring_score
        kv, score, ape = arrays.kv, arrays.score, arrays.ape
        score_a = cuda.local.array(batch, f32)
        score_b = cuda.local.array(batch, f32)
        value_a = cuda.local.array(batch, f32)
        value_b = cuda.local.array(batch, f32)
        begin = i32(i32(window) * ratio - lead)
        for p in range(cuda.threadIdx.x, d >> u32(1), THREADS):
            dim = u32(2 * p)
            late = u32(width - d + dim)
            # The greatest score of each of the pair's two dims.
            top_a, top_b = LOWEST, LOWEST
            for first in range(0, count, batch):
                for i in range(batch):
                    column = dim if first + i < lead else late
                    position = i32(begin + first + i)
                    score_a[i], score_b[i] = pair(
                        ring_score, score, ape, True, position, pos0, column, rows, width
                    )
                for i in range(batch):
                    if begin + first + i >= 0:
                        top_a = score_a[i] if score_a[i] > top_a else top_a
                        top_b = score_b[i] if score_b[i] > top_b else top_b
            # Weights and weighted values, added up group by group as `compressor` does.
            total_a, total_b, sum_a, sum_b = ZERO, ZERO, ZERO, ZERO
            for first in range(0, count, batch):
                for i in range(batch):
                    column = dim if first + i < lead else late
                    position = i32(begin + first + i)
                    if batch < count:
                        score_a[i], score_b[i] = pair(
                            ring_score, score, ape, True, position, pos0, column, rows, width
                        )
                    value_a[i], value_b[i] = pair(
                        ring_kv, kv, ape, False, position, pos0, column, rows, width
                    )
                ta, tb, va, vb = ZERO, ZERO, ZERO, ZERO
                for i in range(batch):
                    if begin + first + i >= 0:
                        a, b = exp(sub_rn(score_a[i], top_a)), exp(sub_rn(score_b[i], top_b))
                        ta, tb = add_rn(ta, a), add_rn(tb, b)
                        va, vb = fma_rn(a, value_a[i], va), fma_rn(b, value_b[i], vb)
                    if (i + 1) % each == 0:
                        total_a, total_b = add_rn(total_a, ta), add_rn(total_b, tb)
                        sum_a, sum_b = add_rn(sum_a, va), add_rn(sum_b, vb)
                        ta, tb, va, vb = ZERO, ZERO, ZERO, ZERO
            at = address(arrays.pooled) + u32(u32(row * d) + dim) * 4
            st_v2_f32(at, sum_a / total_a, sum_b / total_b)

    return pool_window


@device
def remember(arrays, pos0, i, ratio, rows, width):
    """A block writes row i of the call to the rings; `arrays` as `pool_window` takes them."""
    ring_kv, ring_score = arrays.ring_kv, arrays.ring_score
    kv, score, ape = arrays.kv, arrays.score, arrays.ape
    position = u32(u32(pos0) + i)
    target = u32(u32(position % rows) * width)
    bias = u32(u32(position % ratio) * width)
    source = u32(i * width)
    quads = quads_of(width)
    for q in range(cuda.threadIdx.x, quads, THREADS):
        at = address(ring_score) + (target * 4 + q * 16)
        a, b, c, e = ld_nc_v4_f32(address(score) + (source * 4 + q * 16))
        u, v, w, z = ld_nc_v4_f32(address(ape) + (bias * 4 + q * 16))
        g, h, k, m = ld_nc_v4_f32(address(kv) + (source * 4 + q * 16))
        st_v4_f32(at, add_rn(a, u), add_rn(b, v), add_rn(c, w), add_rn(e, z))
        st_v4_f32(address(ring_kv) + (target * 4 + q * 16), g, h, k, m)
    for j in range(quads * 4 + cuda.threadIdx.x, width, THREADS):
        k = u32(j)
        ring_kv[target + k] = kv[source + k]
        ring_score[target + k] = add_rn(score[source + k], ape[bias + k])
