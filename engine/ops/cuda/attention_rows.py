"""What follows the projections of a few rows, in one launch: norms, stored rows, windows, rings.

Each of a launch's blocks does one op's work on one row, with that op's own arithmetic, so the
bits are those of the ops one by one: `rms_norm` of the queries' low rank, `kv_store`,
`compressor_pool` with `compressor_store`, and the indexer's `compressor_pool`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cuda, float32, int32, uint32

from engine.ops.cuda.array import DeviceArray
from engine.ops.cuda.compressor import GROUPS
from engine.ops.cuda.context import Context
from engine.ops.cuda.kernel import F32, F32P, I32P, U16P, U32, Kernel, device, kernel
from engine.ops.cuda.kv import THREADS, row_finisher, window_of
from engine.ops.cuda.norm import WIDE, row_norm
from engine.ops.cuda.ptx import (
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
from engine.ops.cuda.reduce import quads_of
from engine.ops.cuda.rounding import FP8_BLOCK
from engine.ops.cuda.scalar import exp

LOWEST = float32(-math.inf)
ZERO = float32(0)
RATIOS = (0, 4, 128)


@dataclass(frozen=True, slots=True)
class Pooling:
    """One compressor's arrays, as `compressor_pool` takes them."""

    pooled: DeviceArray
    ring_kv: DeviceArray
    ring_score: DeviceArray
    kv: DeviceArray
    score: DeviceArray
    ape: DeviceArray


def _pool(ratio: int) -> Any:
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
        known = uint32(position if position > 0 else 0)
        before = known < uint32(pos0)
        at = uint32(known % rows) if before else uint32(known - uint32(pos0))
        start = address(ring) if before else address(own)
        a, b = ld_v2_f32(start + uint32(at * width + column) * 4)
        if biased:
            at = uint32(uint32(known % uint32(ratio)) * width + column)
            u, v = ld_nc_v2_f32(address(bias) + at * 4)
            a = a if before else add_rn(a, u)
            b = b if before else add_rn(b, v)
        return a, b

    @device
    def pool_window(pooled, ring_kv, ring_score, kv, score, ape, pos0, row, window, rows, d, width):
        score_a = cuda.local.array(batch, float32)
        score_b = cuda.local.array(batch, float32)
        value_a = cuda.local.array(batch, float32)
        value_b = cuda.local.array(batch, float32)
        begin = int32(int32(window) * ratio - lead)
        for p in range(cuda.threadIdx.x, d >> uint32(1), THREADS):
            dim = uint32(2 * p)
            late = uint32(width - d + dim)
            top_a, top_b = LOWEST, LOWEST
            for first in range(0, count, batch):
                for i in range(batch):
                    column = dim if first + i < lead else late
                    position = int32(begin + first + i)
                    score_a[i], score_b[i] = pair(
                        ring_score, score, ape, True, position, pos0, column, rows, width
                    )
                for i in range(batch):
                    if begin + first + i >= 0:
                        top_a = score_a[i] if score_a[i] > top_a else top_a
                        top_b = score_b[i] if score_b[i] > top_b else top_b
            total_a, total_b, sum_a, sum_b = ZERO, ZERO, ZERO, ZERO
            for first in range(0, count, batch):
                for i in range(batch):
                    column = dim if first + i < lead else late
                    position = int32(begin + first + i)
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
            at = address(pooled) + uint32(uint32(row * d) + dim) * 4
            st_v2_f32(at, sum_a / total_a, sum_b / total_b)

    return pool_window


@device
def _remember(ring_kv, ring_score, kv, score, ape, pos0, i, ratio, rows, width):
    """A block writes row i of the call to the rings."""
    position = uint32(uint32(pos0) + i)
    target = uint32(uint32(position % rows) * width)
    bias = uint32(uint32(position % ratio) * width)
    source = uint32(i * width)
    quads = quads_of(width)
    for q in range(cuda.threadIdx.x, quads, THREADS):
        at = address(ring_score) + (target * 4 + q * 16)
        a, b, c, e = ld_nc_v4_f32(address(score) + (source * 4 + q * 16))
        u, v, w, z = ld_nc_v4_f32(address(ape) + (bias * 4 + q * 16))
        g, h, k, m = ld_nc_v4_f32(address(kv) + (source * 4 + q * 16))
        st_v4_f32(at, add_rn(a, u), add_rn(b, v), add_rn(c, w), add_rn(e, z))
        st_v4_f32(address(ring_kv) + (target * 4 + q * 16), g, h, k, m)
    for j in range(quads * 4 + cuda.threadIdx.x, width, THREADS):
        k = uint32(j)
        ring_kv[target + k] = kv[source + k]
        ring_score[target + k] = add_rn(score[source + k], ape[bias + k])


def _rows(ratio: int, packed: bool) -> Kernel:
    finish = row_finisher(packed)
    norm_row = row_norm(THREADS)
    pool_window = _pool(ratio) if ratio else None
    stored = U16P if packed else F32P

    @kernel(
        *(F32P, F32P, U32),  # queries' low rank
        *(stored, F32P, F32P, U32, U32),  # raw ring
        *(I32P, F32P, F32P, U32, U32, F32, U32),  # positions, angles
        *(stored, F32P, U32, U32, U32),  # compressed rows
        *(F32P,) * 6,
        *(U32, F32P, F32P, F32P, F32P, F32P, F32P),  # the indexer's windows
        threads=THREADS,
        name=f"attention_rows_{ratio}_{'f16' if packed else 'f32'}",
    )
    def attention_rows(
        q_a,
        q_norm,
        d_q,
        ring,
        kv,
        kv_norm,
        cap,
        d,
        pos,
        cos,
        sin,
        n,
        half,
        eps,
        official,
        comp,
        comp_norm,
        comp_cap,
        ring_rows,
        n_pool,
        pooled,
        ring_kv,
        ring_score,
        comp_kv,
        comp_gate,
        ape,
        idx_d,
        idx_pooled,
        idx_ring_kv,
        idx_ring_score,
        idx_kv,
        idx_gate,
        idx_ape,
    ):
        parts = cuda.shared.array(32, float32)
        pos0 = int32(pos[0])
        b = uint32(cuda.blockIdx.x)
        if b < n:
            norm_row(q_a, q_a, b, q_norm, uint32(1), d_q, eps, parts)
        elif b < uint32(2) * n:
            i = uint32(b - n)
            position = uint32(uint32(pos0) + i)
            angle = uint32(position * half)
            row = uint32(position % cap)
            source = address(kv) + uint32(i * d) * 4
            finish(ring, row, source, kv_norm, cos, sin, angle, d, half, eps, official, parts)
        elif ratio:
            i = uint32(b - uint32(2) * n)
            double = uint32(2 if ratio == 4 else 1)
            if i < n_pool:
                window, ends = window_of(pos, n, uint32(ratio), i)
                if ends:
                    pool_window(
                        pooled,
                        ring_kv,
                        ring_score,
                        comp_kv,
                        comp_gate,
                        ape,
                        pos0,
                        i,
                        window,
                        ring_rows,
                        d,
                        uint32(double * d),
                    )
                    # Each thread reads back only what it wrote itself.
                    source = address(pooled) + uint32(i * d) * 4
                    angle = uint32(uint32(window * uint32(ratio)) * half)
                    row = uint32(window % comp_cap)
                    finish(
                        comp, row, source, comp_norm, cos, sin, angle, d, half, eps, official, parts
                    )
            elif i < n_pool + n:
                i = uint32(i - n_pool)
                width = uint32(double * d)
                _remember(
                    ring_kv,
                    ring_score,
                    comp_kv,
                    comp_gate,
                    ape,
                    pos0,
                    i,
                    uint32(ratio),
                    ring_rows,
                    width,
                )
            elif ratio == 4:
                i = uint32(i - n_pool - n)
                width = uint32(uint32(2) * idx_d)
                if i < n_pool:
                    window, ends = window_of(pos, n, uint32(ratio), i)
                    if ends:
                        pool_window(
                            idx_pooled,
                            idx_ring_kv,
                            idx_ring_score,
                            idx_kv,
                            idx_gate,
                            idx_ape,
                            pos0,
                            i,
                            window,
                            ring_rows,
                            idx_d,
                            width,
                        )
                else:
                    i = uint32(i - n_pool)
                    _remember(
                        idx_ring_kv,
                        idx_ring_score,
                        idx_kv,
                        idx_gate,
                        idx_ape,
                        pos0,
                        i,
                        uint32(ratio),
                        ring_rows,
                        width,
                    )

    return attention_rows


_KERNELS = {(r, packed): _rows(r, packed) for r in RATIOS for packed in (False, True)}


def fits(n: int, ratio: int, d_q: int, d: int, half: int, official: bool, rings: int) -> bool:
    """Whether `attention_rows` takes n rows: they must replace no ring row that windows read."""
    candidates = 2 * ratio if ratio == 4 else ratio
    plain = not official or (d - 2 * half) % FP8_BLOCK == 0
    apart = not ratio or n + candidates - 1 <= rings
    return ratio in RATIOS and d_q <= WIDE and plain and apart


def attention_rows(
    ctx: Context,
    q_a: DeviceArray,
    q_norm: DeviceArray,
    ring: DeviceArray,
    kv: DeviceArray,
    kv_norm: DeviceArray,
    cos: DeviceArray,
    sin: DeviceArray,
    eps: float,
    official: bool,
    ratio: int,
    comp: DeviceArray | None = None,
    comp_norm: DeviceArray | None = None,
    pooling: Pooling | None = None,
    indexing: Pooling | None = None,
) -> None:
    """What a layer does with its first projections, for the few rows of a decode step.

    As `rms_norm(q_a, q_a, q_norm)`, `kv_store(ring, kv, kv_norm)`, with a compressor
    `compressor_pool(*pooling)` and `compressor_store(comp, pooling.pooled, comp_norm)`, and for
    ratio 4 `compressor_pool(*indexing)`; same bits.

    Parameters
    ----------
    q_a : float32 DeviceArray of shape (n, n_lora_q), changed in place
    q_norm : float32 DeviceArray of shape (n_lora_q,)
    ring : DeviceArray of shape (cap, head_dim), float32, or float16 for official rows
    kv : float32 DeviceArray of shape (n, head_dim)
    kv_norm : float32 DeviceArray of shape (head_dim,)
    cos, sin : float32 DeviceArrays of shape (n_positions, n_rot // 2)
    eps : float
    official : bool
    ratio : {0, 4, 128}
        0: no compressor, and none of the rest is given.
    comp : DeviceArray of shape (comp_cap, head_dim), of the ring's dtype
    comp_norm : float32 DeviceArray of shape (head_dim,)
    pooling, indexing : Pooling
        The compressor's arrays, and the indexer's for ratio 4.
    """
    n, d_q = q_a.shape
    cap, d = ring.shape
    half = cos.shape[1]
    packed = ring.dtype == np.float16
    assert kv.shape == (n, d) and n <= cap and d % 2 == 0, (kv, ring)
    assert official or not packed, "float16 holds only official rows"
    head: tuple[Any, ...] = (q_a, q_norm, d_q, ring, kv, kv_norm, cap, d)
    head += (ctx.pos, cos, sin, n, half, eps, int(official))
    wrote = [q_a, ring]
    if not ratio:
        assert fits(n, 0, d_q, d, half, official, 0), (n, d_q, d)
        rest: tuple[Any, ...] = (None, None, 1, 1, 0, *(None,) * 6, 0, *(None,) * 6)
        ctx.launch(_KERNELS[0, packed], 2 * n, *head, *rest)
        ctx.wrote(*wrote)
        return
    assert comp is not None and comp_norm is not None and pooling is not None
    n_pool = (n + ratio - 1) // ratio
    rings = len(pooling.ring_kv)
    width = 2 * d if ratio == 4 else d
    assert fits(n, ratio, d_q, d, half, official, rings), (n, ratio, d_q, d, rings)
    assert comp.shape[1] == d and comp.dtype == ring.dtype, (comp, ring)
    assert pooling.pooled.shape == (n_pool, d) and pooling.kv.shape == (n, width), pooling
    rest = (comp, comp_norm, len(comp), rings, n_pool, *_arrays(pooling))
    blocks = 2 * n + n_pool + n
    wrote += [comp, pooling.pooled, pooling.ring_kv, pooling.ring_score]
    if ratio == 4:
        assert indexing is not None and len(indexing.ring_kv) == rings
        d_idx = indexing.pooled.shape[1]
        assert indexing.kv.shape == (n, 2 * d_idx) and d_idx % 2 == 0, indexing
        rest += (d_idx, *_arrays(indexing))
        blocks += n_pool + n
        wrote += [indexing.pooled, indexing.ring_kv, indexing.ring_score]
    else:
        rest += (0, *(None,) * 6)
    ctx.launch(_KERNELS[ratio, packed], blocks, *head, *rest)
    ctx.wrote(*wrote)


def _arrays(p: Pooling) -> tuple[DeviceArray, ...]:
    return p.pooled, p.ring_kv, p.ring_score, p.kv, p.score, p.ape
