"""Which compressed rows each query attends to: scores, then an exact choice of the greatest.

A block finds the top_k-th greatest of a query's scores two bits at a time, by counting: integers
that order as the scores do, compared with three candidates a round. Of more rows than its threads
hold, several blocks pick the best of a piece each, and one chooses among the picks. The choice is
exact; equal scores go to the lower row, NaN is lower than everything.
"""

from __future__ import annotations

import math

import numpy as np
from numba import cuda

from engine.ops.cuda.attention import scores as scoring
from engine.ops.cuda.attention.edge import (
    COUNTS,
    PARTS,
    THREADS,
    gap,
    held_keys,
    keep,
)
from engine.ops.cuda.attention.indexer import IndexRows
from engine.ops.cuda.build.kernel import F32P, I32P, U32, device, kernel
from engine.ops.cuda.build.types import f32, i32, u32
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.sizes import HELD, MOST, PIECE, SCORE_BYTES

INFINITY = f32(math.inf)


@device
def _all_rows(sel, n_sel, margin, i, out, visible, edged, thread):
    """No more rows than are wanted: all of them."""
    for r in range(thread, visible, THREADS):
        sel[u32(out + u32(r))] = i32(r)
    if thread == u32(0):
        n_sel[i] = i32(visible)
        if edged:
            margin[i] = INFINITY


@kernel(
    *(I32P, I32P, F32P, F32P, I32P),
    *(U32,) * 5,
    threads=THREADS,
    writes=("sel", "n_sel", "margin"),
)
def indexer_top(sel, n_sel, margin, scores, pos, row0, top_k, cap, ratio, edged):
    """Grid (queries): the rows of query row0 + block, ascending."""
    parts = cuda.shared.array(PARTS, i32)
    counts = cuda.shared.array(COUNTS, i32)
    thread = u32(cuda.threadIdx.x)
    i = u32(row0 + u32(cuda.blockIdx.x))
    out = u32(i * top_k)
    visible = u32(u32(u32(pos[0]) + i + u32(1)) // ratio)
    if visible <= top_k:
        _all_rows(sel, n_sel, margin, i, out, visible, edged, thread)
        return
    row = u32(u32(cuda.blockIdx.x) * cap)
    keys = cuda.local.array(HELD, i32)
    held_keys(keys, scores, row, visible, thread)
    wanted = i32(top_k)
    edge, ties, below, equal = keep(
        sel, out, keys, scores, row, visible, wanted, parts, counts, thread
    )
    if thread == u32(0):
        n_sel[i] = wanted
        if edged:
            margin[i] = gap(edge, ties, below, equal)


@kernel(
    *(I32P, F32P, F32P, I32P),
    *(U32,) * 4,
    threads=THREADS,
    writes=("picks", "picked"),
)
def indexer_pieces(picks, picked, scores, pos, row0, wide, cap, ratio):
    """Grid (pieces of PIECE rows, queries): a piece's `wide` best rows, ascending, and scores.

    Every piece but a query's last has more rows than that, so that its picks lie together.
    """
    parts = cuda.shared.array(PARTS, i32)
    counts = cuda.shared.array(COUNTS, i32)
    thread = u32(cuda.threadIdx.x)
    piece, query = u32(cuda.blockIdx.x), u32(cuda.blockIdx.y)
    visible = u32(u32(u32(pos[0]) + row0 + query + u32(1)) // ratio)
    begin = u32(piece * u32(PIECE))
    # With so few rows all are chosen, and nobody looks here.
    if visible < wide or begin >= visible:
        return
    count = min(u32(PIECE), u32(visible - begin))
    row = u32(query * cap + begin)
    out = u32(u32(query * u32(cuda.gridDim.x) + piece) * wide)
    kept = min(count, wide)
    if count <= wide:
        for r in range(thread, count, THREADS):
            picks[u32(out + u32(r))] = i32(r)
    else:
        keys = cuda.local.array(HELD, i32)
        held_keys(keys, scores, row, count, thread)
        keep(picks, out, keys, scores, row, count, i32(wide), parts, counts, thread)
    cuda.syncthreads()
    for k in range(thread, kept, THREADS):
        at = u32(out + u32(k))
        r = u32(picks[at])
        picked[at] = scores[u32(row + r)]
        picks[at] = i32(begin + r)


@kernel(
    *(I32P, I32P, F32P, I32P, F32P, I32P),
    *(U32,) * 6,
    threads=THREADS,
    writes=("sel", "n_sel", "margin"),
)
def indexer_merge(sel, n_sel, margin, picks, picked, pos, row0, top_k, wide, pieces, ratio, edged):
    """Grid (queries): what `indexer_top` gives, from the pieces' picks.

    They hold one more row than is wanted of every piece, and so the first that is dropped, too.
    """
    parts = cuda.shared.array(PARTS, i32)
    counts = cuda.shared.array(COUNTS, i32)
    thread = u32(cuda.threadIdx.x)
    i = u32(row0 + u32(cuda.blockIdx.x))
    out = u32(i * top_k)
    visible = u32(u32(u32(pos[0]) + i + u32(1)) // ratio)
    if visible <= top_k:
        _all_rows(sel, n_sel, margin, i, out, visible, edged, thread)
        return
    # The picks of all pieces, one after the other: the last piece may have fewer.
    last = u32(u32(visible - u32(1)) // u32(PIECE))
    rest = min(u32(visible - u32(last * u32(PIECE))), wide)
    total = u32(u32(last * wide) + rest)
    row = u32(u32(u32(cuda.blockIdx.x) * pieces) * wide)
    keys = cuda.local.array(HELD, i32)
    held_keys(keys, picked, row, total, thread)
    wanted = i32(top_k)
    edge, ties, below, equal = keep(
        sel, out, keys, picked, row, total, wanted, parts, counts, thread
    )
    cuda.syncthreads()
    for k in range(thread, top_k, THREADS):
        at = u32(out + u32(k))
        sel[at] = picks[u32(row + u32(sel[at]))]
    if thread == u32(0):
        n_sel[i] = wanted
        if edged:
            margin[i] = gap(edge, ties, below, equal)


def indexer_select(
    ctx: Context,
    sel: DeviceArray,
    n_sel: DeviceArray,
    q: DeviceArray | None,
    head_w: DeviceArray | None,
    rows: IndexRows,
    pos0: DeviceArray,
    ratio: int,
    margin: DeviceArray | None,
) -> None:
    """Choose the compressed rows that each query attends to, ascending.

    Query i, at position p, sees (p + 1) // ratio rows. Up to top_k of them: all. More: the top_k of
    score(c) = sum_h relu(q_h . k_c) * head_w_h / sqrt(idx_head_dim * n_idx_head), equal scores
    going to the lower row, NaN below every number.

    Parameters
    ----------
    sel : int32 DeviceArray of shape (n, top_k)
        Overwritten up to n_sel; the rest is unspecified.
    n_sel : int32 DeviceArray of shape (n,), overwritten
    q : float32 DeviceArray of shape (n, n_idx_head, idx_head_dim), or None
        As `indexer_query` left it; None if no query sees more than top_k rows.
    head_w : float32 DeviceArray of shape (n, n_idx_head), or None
        Raw projection; None together with q.
    rows : IndexRows
    pos0 : int32 DeviceArray of shape (1,)
        Position of row 0, in device memory.
    ratio : int
    margin : float32 DeviceArray of shape (n,), overwritten, or None
        Score of the last row kept minus that of the first dropped; infinity when nothing is
        dropped.
    """
    n, top_k = sel.shape
    cap, d = rows.rows.shape
    edged = int(margin is not None)
    assert n_sel.shape == (n,) and top_k < MOST, (sel, n_sel)
    if q is None or head_w is None:
        ctx.launch(indexer_top, n, sel, n_sel, margin, None, pos0, 0, top_k, 0, ratio, edged)
    else:
        n_head = q.shape[1]
        assert q.shape == (n, n_head, d) and head_w.shape == (n, n_head), (q, head_w, rows.rows)
        if ctx.horizon is not None:
            cap = min(cap, ctx.horizon // ratio)
        turns = -(-n // max(SCORE_BYTES // (cap * 4), 1))
        at_once = -(-n // turns)
        scores = ctx.scratch("indexer scores", (at_once, cap))
        narrow = _narrow(ctx, q) if rows.packed else None
        share = float(np.float32(1 / np.sqrt(np.float64(d * n_head))))
        for row0 in range(0, n, at_once):
            count = min(at_once, n - row0)
            sizes = (row0, count, cap, ratio, top_k)
            _score(ctx, scores, narrow or q, head_w, rows, pos0, sizes, share)
            _choose(ctx, (sel, n_sel, margin), scores, pos0, sizes, edged)
    ctx.wrote(sel, n_sel)
    if margin is not None:
        ctx.wrote(margin)


def _choose(
    ctx: Context,
    out: tuple[DeviceArray, DeviceArray, DeviceArray | None],
    scores: DeviceArray,
    pos0: DeviceArray,
    sizes: tuple[int, int, int, int, int],
    edged: int,
) -> None:
    """The best of the scores; more rows than a block holds are shared out among several."""
    row0, count, cap, ratio, top_k = sizes
    pieces, wide = -(-cap // PIECE), top_k + 1
    if pieces == 1 or wide >= PIECE:
        ctx.launch(indexer_top, count, *out, scores, pos0, row0, top_k, cap, ratio, edged)
        return
    picks = ctx.scratch("indexer picks", (count, pieces, wide), np.int32)
    picked = ctx.scratch("indexer picked", (count, pieces, wide))
    grid = (pieces, count)
    ctx.launch(indexer_pieces, grid, picks, picked, scores, pos0, row0, wide, cap, ratio)
    args = (picks, picked, pos0, row0, top_k, wide, pieces, ratio, edged)
    ctx.launch(indexer_merge, count, *out, *args)


def _narrow(ctx: Context, q: DeviceArray) -> DeviceArray:
    """The queries as bfloat16: what `indexer_query` kept, or made now."""
    narrow = ctx.companion(q, "bf16")
    if narrow is None:
        narrow = ctx.scratch("indexer query", q.shape, np.uint16)
        quads = q.size // 4
        ctx.launch(scoring.indexer_narrow, -(-quads // scoring.THREADS), narrow, q, quads)
    return narrow


def _score(
    ctx: Context,
    scores: DeviceArray,
    q: DeviceArray,
    head_w: DeviceArray,
    rows: IndexRows,
    pos0: DeviceArray,
    sizes: tuple[int, int, int, int, int],
    share: float,
) -> None:
    """Scores of queries row0 .. row0 + count - 1, of all rows that they see."""
    row0, count, cap, ratio, top_k = sizes
    d = rows.rows.shape[1]
    args = (scores, q, head_w, rows.rows, pos0, row0, count, q.shape[1], cap, ratio, top_k)
    if rows.packed:
        grid = (-(-cap // scoring.ROWS), -(-count // scoring.QUERIES))
        ctx.launch(scoring.indexer_scores_bf16, grid, *args, share)
    else:
        assert d % 4 == 0, d
        grid = (-(-cap // scoring.THREADS), count)
        ctx.launch(scoring.indexer_scores_f32, grid, *args, d, share)
