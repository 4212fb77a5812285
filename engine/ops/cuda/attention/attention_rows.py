"""What follows the projections of a few rows, in one launch: norms, stored rows, windows, rings.

Each of a launch's blocks does one op's work on one row, with that op's own arithmetic, so the
bits are those of the ops one by one: `rms_norm` of the queries' low rank, `kv_store`,
`compressor_pool` with `compressor_store`, and the indexer's `compressor_pool`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cuda

from engine.ops.cuda.build.kernel import F32, F32P, I32P, U16P, U32, Kernel, kernel
from engine.ops.cuda.build.ptx import address
from engine.ops.cuda.build.types import f32, i32, u32
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.hyper.forms import ARGS, forms_of
from engine.ops.cuda.rows.kv import THREADS, row_finisher, window_of
from engine.ops.cuda.rows.norm import WIDE, row_norm_with_forms
from engine.ops.cuda.rows.rounding import FP8_BLOCK
from engine.ops.cuda.rows.windows import remember, window_pooler

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


def _rows(ratio: int, packed: bool) -> Kernel:
    finish = row_finisher(packed)
    norm_row = row_norm_with_forms(THREADS)
    pool_window = window_pooler(ratio) if ratio else None
    stored = U16P if packed else F32P

    @kernel(
        *(F32P, F32P, U32, *ARGS),  # queries' low rank
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
        codes_32,
        scales_32,
        codes_256,
        scales_256,
        halves,
        halves_scale,
        n_pad,
        forms,
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
        parts = cuda.shared.array(32, f32)
        tops = cuda.shared.array(32, i32)
        pos0 = i32(pos[0])
        b = u32(cuda.blockIdx.x)
        if b < n:
            to = (codes_32, scales_32, codes_256, scales_256, halves, halves_scale, n_pad, forms)
            norm_row(q_a, q_a, b, q_norm, d_q, eps, parts, tops, to)
        elif b < u32(2) * n:
            i = u32(b - n)
            position = u32(u32(pos0) + i)
            angle = u32(position * half)
            row = u32(position % cap)
            source = address(kv) + u32(i * d) * 4
            finish(ring, row, source, kv_norm, cos, sin, angle, d, half, eps, official, parts)
        elif ratio:
            i = u32(b - u32(2) * n)
            arrays = (ring_kv, ring_score, comp_kv, comp_gate, ape)
            width = u32(u32(2 if ratio == 4 else 1) * d)
            if i < n_pool:
                window, ends = window_of(pos, n, u32(ratio), i)
                if ends:
                    pool_window(pooled, arrays, pos0, i, window, ring_rows, d, width)
                    # Each thread reads back only what it wrote itself.
                    source = address(pooled) + u32(i * d) * 4
                    angle = u32(u32(window * u32(ratio)) * half)
                    row = u32(window % comp_cap)
                    finish(
                        comp, row, source, comp_norm, cos, sin, angle, d, half, eps, official, parts
                    )
            elif i < n_pool + n:
                i = u32(i - n_pool)
                remember(arrays, pos0, i, u32(ratio), ring_rows, width)
            elif ratio == 4:
                i = u32(i - n_pool - n)
                idx_arrays = (idx_ring_kv, idx_ring_score, idx_kv, idx_gate, idx_ape)
                idx_width = u32(u32(2) * idx_d)
                if i < n_pool:
                    window, ends = window_of(pos, n, u32(ratio), i)
                    if ends:
                        pool_window(
                            idx_pooled, idx_arrays, pos0, i, window, ring_rows, idx_d, idx_width
                        )
                else:
                    i = u32(i - n_pool)
                    remember(idx_arrays, pos0, i, u32(ratio), ring_rows, idx_width)

    return attention_rows


_KERNELS = {(r, packed): _rows(r, packed) for r in RATIOS for packed in (False, True)}


def fits(n: int, ratio: int, d_q: int, d: int, half: int, official: bool, rings: int) -> bool:
    """Whether `attention_rows` takes n rows: they must replace no ring row that windows read."""
    candidates = 2 * ratio if ratio == 4 else ratio
    plain = not official or (d - 2 * half) % FP8_BLOCK == 0
    apart = not ratio or n + candidates - 1 <= rings
    return ratio in RATIOS and d_q <= WIDE and d_q % 4 == 0 and plain and apart


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
    formats: Collection[str] = (),
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
    formats : collection of str
        Formats of the weights that will be multiplied with `q_a`.
    """
    n, d_q = q_a.shape
    cap, d = ring.shape
    half = cos.shape[1]
    packed = ring.dtype == np.float16
    assert kv.shape == (n, d) and n <= cap and d % 2 == 0, (kv, ring)
    assert official or not packed, "float16 holds only official rows"
    forms = forms_of(ctx, q_a, formats)
    head: tuple[Any, ...] = (q_a, q_norm, d_q, *forms.args, ring, kv, kv_norm, cap, d)
    head += (ctx.pos, cos, sin, n, half, eps, int(official))
    wrote = [ring]
    if not ratio:
        assert fits(n, 0, d_q, d, half, official, 0), (n, d_q, d)
        rest: tuple[Any, ...] = (None, None, 1, 1, 0, *(None,) * 6, 0, *(None,) * 6)
        ctx.launch(_KERNELS[0, packed], 2 * n, *head, *rest)
        ctx.wrote(*wrote)
        forms.keep(ctx, q_a)
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
    forms.keep(ctx, q_a)


def _arrays(p: Pooling) -> tuple[DeviceArray, ...]:
    return p.pooled, p.ring_kv, p.ring_score, p.kv, p.score, p.ape
