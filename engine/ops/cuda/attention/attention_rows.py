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

from engine.ops.cuda.build.arguments import ArgumentBlock
from engine.ops.cuda.build.kernel import F32, F32P, I32P, U16P, U32, Kernel, kernel
from engine.ops.cuda.build.ptx import address
from engine.ops.cuda.build.types import f32, i32, u32
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.hyper.forms import FORMS, FORMS_WRITTEN, forms_of
from engine.ops.cuda.rows.kv import THREADS, row_finisher, window_of
from engine.ops.cuda.rows.norm import WIDE, row_norm_with_forms
from engine.ops.cuda.rows.rounding import FP8_BLOCK
from engine.ops.cuda.rows.windows import POOLING, remember, window_pooler

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


QUERIES = ArgumentBlock(
    "Queries",
    q_a=(F32P, "(n, d_q): the queries' low rank, normed in place"),
    q_norm=(F32P, "(d_q,): weight of its norm"),
    d_q=(U32, "values of a row"),
)
CALL = ArgumentBlock(
    "Call",
    pos=(I32P, "(1,): position of row 0"),
    cos=(F32P, "(n_positions, half): cosines of the rotation"),
    sin=(F32P, "(n_positions, half): sines of the rotation"),
    n=(U32, "rows of the call"),
    half=(U32, "rotated pairs of a row's tail"),
    eps=(F32, "added to mean squares"),
    official=(U32, "1: stored rows are rounded as the published model does"),
)
# Rows that are kept have a type of their own (None here): float16 bits or float32.
_RAW = dict(
    ring=(None, "(cap, d): raw rows, by position % cap"),
    kv=(F32P, "(n, d): the call's projected rows"),
    kv_norm=(F32P, "(d,): weight of their norm"),
    cap=(U32, "rows of the ring"),
    d=(U32, "values of a row"),
)
_COMPRESSED = dict(
    rows=(None, "(cap, d): compressed rows, by window % cap"),
    norm=(F32P, "(d,): weight of their norm"),
    cap=(U32, "rows that are kept"),
    ring_rows=(U32, "rows of the rings that remember unpooled rows"),
    n_pool=(U32, "blocks for windows: as many as can end in the call"),
)


def _stored(packed: bool, name: str, fields: dict[str, tuple[Any, str]]) -> ArgumentBlock:
    """Block of these fields, with rows that are kept as float16 bits if packed."""
    kept = U16P if packed else F32P
    return ArgumentBlock(name, **{f: (kind or kept, text) for f, (kind, text) in fields.items()})


_BLOCKS = {
    (packed, name): _stored(packed, name, fields)
    for packed in (False, True)
    for name, fields in (("Raw", _RAW), ("Compressed", _COMPRESSED))
}


def _rows(ratio: int, packed: bool) -> Kernel:
    finish = row_finisher(packed)
    norm_row = row_norm_with_forms(THREADS)
    pool_window = window_pooler(ratio) if ratio else None

    @kernel(
        *(QUERIES, FORMS, _BLOCKS[packed, "Raw"], CALL),
        *(_BLOCKS[packed, "Compressed"], POOLING, U32, POOLING),
        threads=THREADS,
        name=f"attention_rows_{ratio}_{'f16' if packed else 'f32'}",
        writes=(*FORMS_WRITTEN, "q_a", "ring", "rows", "pooled", "ring_kv", "ring_score"),
    )
    def attention_rows(queries, forms, raw, call, compressed, pooling, idx_d, indexing):
        """Grid: n blocks of queries, n of raw rows, then n_pool windows and n rows to remember.

        The last two kinds come again for the indexer's compressor at ratio 4.
        """
        parts = cuda.shared.array(32, f32)
        tops = cuda.shared.array(32, i32)
        pos0 = i32(call.pos[0])
        b = u32(cuda.blockIdx.x)
        n, d, half = call.n, raw.d, call.half
        cos, sin, eps, official = call.cos, call.sin, call.eps, call.official
        if b < n:
            # A row of the queries' low rank is normed.
            q_a, q_norm, d_q = queries.q_a, queries.q_norm, queries.d_q
            norm_row(q_a, q_a, b, q_norm, d_q, eps, parts, tops, forms)
        elif b < u32(2) * n:
            # A raw row is finished and stored at its position.
            i = u32(b - n)
            position = u32(u32(pos0) + i)
            angle = u32(position * half)
            row = u32(position % raw.cap)
            source = address(raw.kv) + u32(i * d) * 4
            weight = raw.kv_norm
            finish(raw.ring, row, source, weight, cos, sin, angle, d, half, eps, official, parts)
        elif ratio:
            i = u32(b - u32(2) * n)
            n_pool, ring_rows = compressed.n_pool, compressed.ring_rows
            width = u32(u32(2 if ratio == 4 else 1) * d)
            if i < n_pool:
                # A window that ends in the call is pooled, finished and stored.
                window, ends = window_of(call.pos, n, u32(ratio), i)
                if ends:
                    pool_window(pooling, pos0, i, window, ring_rows, d, width)
                    # Each thread reads back only what it wrote itself.
                    source = address(pooling.pooled) + u32(i * d) * 4
                    angle = u32(u32(window * u32(ratio)) * half)
                    row = u32(window % compressed.cap)
                    rows, weight = compressed.rows, compressed.norm
                    finish(
                        rows, row, source, weight, cos, sin, angle, d, half, eps, official, parts
                    )
            elif i < n_pool + n:
                # The compressor remembers a row of the call.
                i = u32(i - n_pool)
                remember(pooling, pos0, i, u32(ratio), ring_rows, width)
            elif ratio == 4:
                # The same two for the indexer, whose windows its own op finishes.
                i = u32(i - n_pool - n)
                idx_width = u32(u32(2) * idx_d)
                if i < n_pool:
                    window, ends = window_of(call.pos, n, u32(ratio), i)
                    if ends:
                        pool_window(indexing, pos0, i, window, ring_rows, idx_d, idx_width)
                else:
                    i = u32(i - n_pool)
                    remember(indexing, pos0, i, u32(ratio), ring_rows, idx_width)

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
    pos0: DeviceArray,
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
    pos0 : int32 DeviceArray of shape (1,)
        Position of row 0, in device memory.
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
    raw, compressed = _BLOCKS[packed, "Raw"], _BLOCKS[packed, "Compressed"]
    head: tuple[Any, ...] = (
        *QUERIES(q_a=q_a, q_norm=q_norm, d_q=d_q),
        *forms.args,
        *raw(ring=ring, kv=kv, kv_norm=kv_norm, cap=cap, d=d),
        *CALL(pos=pos0, cos=cos, sin=sin, n=n, half=half, eps=eps, official=int(official)),
    )
    wrote = [ring]
    if not ratio:
        assert fits(n, 0, d_q, d, half, official, 0), (n, d_q, d)
        unread = (*compressed.empty(), *POOLING.empty(), 0, *POOLING.empty())
        ctx.launch(_KERNELS[0, packed], 2 * n, *head, *unread)
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
    rest: tuple[Any, ...] = (
        *compressed(rows=comp, norm=comp_norm, cap=len(comp), ring_rows=rings, n_pool=n_pool),
        *_arrays(pooling),
    )
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
        rest += (0, *POOLING.empty())
    ctx.launch(_KERNELS[ratio, packed], blocks, *head, *rest)
    ctx.wrote(*wrote)
    forms.keep(ctx, q_a)


def _arrays(p: Pooling) -> tuple[Any, ...]:
    return POOLING(
        pooled=p.pooled,
        ring_kv=p.ring_kv,
        ring_score=p.ring_score,
        kv=p.kv,
        score=p.score,
        ape=p.ape,
    )
