"""Which compressed rows each query attends to: scores, then an exact choice of the greatest.

A block finds the top_k-th greatest of a query's scores two bits at a time, by counting: integers
that order as the scores do, compared with three candidates a round. The choice is exact; equal
scores go to the lower row, NaN is lower than everything.
"""

from __future__ import annotations

import math

import numpy as np
from numba import cuda, float32, int32, uint32

from engine.ops.cuda import scores as scoring
from engine.ops.cuda.array import DeviceArray
from engine.ops.cuda.context import Context
from engine.ops.cuda.indexer import IndexRows
from engine.ops.cuda.kernel import F32P, I32P, U32, device, kernel
from engine.ops.cuda.ptx import (
    add_rn,
    ballot,
    bits_f32,
    f32_bits,
    popc,
    redux_add,
    redux_max,
    sub_rn,
)

THREADS = 1024
WARPS = THREADS // 32
PARTS = 6 * WARPS
HELD = 16  # scores of a thread that stay in registers
SCORE_BYTES = 64 << 20  # of the scores at hand
INFINITY = float32(math.inf)
MAGNITUDE = int32(0x7FFFFFFF)
NONE = int32(-0x80000000)  # key of NaN and of no row


@device
def _key(score):
    """Integer that orders as the score does, -0 like 0; NaN lowest."""
    bits = f32_bits(add_rn(score, float32(0)))
    key = int32(bits ^ int32(int32(bits >> int32(31)) & MAGNITUDE))
    return key if score == score else NONE


@device
def _score_of(key):
    bits = int32(key ^ int32(int32(key >> int32(31)) & MAGNITUDE))
    return float32(math.nan) if key == NONE else bits_f32(bits)


@kernel(
    *(I32P, I32P, F32P, F32P, I32P),
    *(U32,) * 5,
    threads=THREADS,
)
def indexer_top(sel, n_sel, margin, scores, pos, row0, top_k, cap, ratio, edged):
    """Grid (queries): the rows of query row0 + block, ascending."""
    parts = cuda.shared.array(PARTS, int32)
    thread = uint32(cuda.threadIdx.x)
    lane, warp = thread & uint32(31), thread >> uint32(5)
    i = uint32(row0 + uint32(cuda.blockIdx.x))
    out = uint32(i * top_k)
    visible = uint32(uint32(uint32(pos[0]) + i + uint32(1)) // ratio)
    if visible <= top_k:
        for r in range(thread, visible, THREADS):
            sel[uint32(out + uint32(r))] = int32(r)
        if thread == uint32(0):
            n_sel[i] = int32(visible)
            if edged:
                margin[i] = INFINITY
        return
    row = uint32(uint32(cuda.blockIdx.x) * cap)
    keys = cuda.local.array(HELD, int32)
    for k in range(HELD):
        r = uint32(uint32(k * THREADS) + thread)
        keys[k] = NONE
        if r < visible:
            keys[k] = _key(scores[uint32(row + r)])

    # edge: greatest integer that at least top_k keys reach. Rows past `visible` have the lowest
    # key and are never counted above the first candidates, since those are greater.
    edge = NONE
    wanted = int32(top_k)
    for turn in range(16):
        shift = int32(int32(30) - int32(2) * int32(turn))
        step = int32(int32(1) << shift)
        c1 = int32(edge + step)
        c2 = int32(c1 + step)
        c3 = int32(c2 + step)
        n1, n2, n3 = int32(0), int32(0), int32(0)
        for k in range(HELD):
            n1 = int32(n1 + int32(keys[k] >= c1))
            n2 = int32(n2 + int32(keys[k] >= c2))
            n3 = int32(n3 + int32(keys[k] >= c3))
        for r in range(uint32(HELD * THREADS) + thread, visible, THREADS):
            key = _key(scores[uint32(row + uint32(r))])
            n1 = int32(n1 + int32(key >= c1))
            n2 = int32(n2 + int32(key >= c2))
            n3 = int32(n3 + int32(key >= c3))
        n1, n2, n3 = redux_add(n1), redux_add(n2), redux_add(n3)
        slot = uint32(uint32(turn & 1) * uint32(3 * WARPS))
        if lane == uint32(0):
            parts[uint32(slot + warp)] = n1
            parts[uint32(slot + uint32(WARPS) + warp)] = n2
            parts[uint32(slot + uint32(2 * WARPS) + warp)] = n3
        cuda.syncthreads()
        n1 = redux_add(parts[uint32(slot + lane)])
        n2 = redux_add(parts[uint32(slot + uint32(WARPS) + lane)])
        n3 = redux_add(parts[uint32(slot + uint32(2 * WARPS) + lane)])
        if n3 >= wanted:
            edge = c3
        elif n2 >= wanted:
            edge = c2
        elif n1 >= wanted:
            edge = c1
    cuda.syncthreads()

    # Keys above the edge, the greatest below it, and how many of the edge's own are kept.
    above, below = int32(0), NONE
    for r in range(thread, visible, THREADS):
        key = _key(scores[uint32(row + uint32(r))])
        if key > edge:
            above = int32(above + int32(1))
        elif key < edge:
            below = max(below, key)
    above, below = redux_add(above), redux_max(below)
    if lane == uint32(0):
        parts[warp] = above
        parts[uint32(uint32(WARPS) + warp)] = below
    cuda.syncthreads()
    above = redux_add(parts[lane])
    below = redux_max(parts[uint32(uint32(WARPS) + lane)])
    ties = int32(wanted - above)
    cuda.syncthreads()

    # Tile by tile of THREADS rows: where each warp's kept rows begin.
    before_above, before_ties = int32(0), int32(0)
    tile = uint32(0)
    lower = int32(int32(int32(1) << int32(lane)) - int32(1))
    for begin in range(uint32(0), visible, THREADS):
        r = uint32(begin + thread)
        key = NONE
        is_above, is_tie = False, False
        if r < visible:
            key = _key(scores[uint32(row + r)])
            is_above, is_tie = key > edge, key == edge
        above_mask, tie_mask = ballot(int32(is_above)), ballot(int32(is_tie))
        slot = uint32((tile & uint32(1)) * uint32(WARPS))
        count = int32(popc(above_mask) | int32(popc(tie_mask) << int32(16)))
        if lane == uint32(0):
            parts[uint32(slot + warp)] = count
        cuda.syncthreads()
        count = parts[uint32(slot + lane)]
        ahead = redux_add(count if lane < warp else int32(0))
        count = redux_add(count)
        my_above = int32(before_above + int32(ahead & int32(0xFFFF)))
        my_ties = int32(before_ties + int32(ahead >> int32(16)))
        my_above = int32(my_above + popc(int32(above_mask & lower)))
        my_ties = int32(my_ties + popc(int32(tie_mask & lower)))
        if is_above or (is_tie and my_ties < ties):
            at = int32(my_above + min(my_ties, ties))
            sel[uint32(out + uint32(at))] = int32(r)
        before_above = int32(before_above + int32(count & int32(0xFFFF)))
        before_ties = int32(before_ties + int32(count >> int32(16)))
        tile = uint32(tile + uint32(1))
    if thread == uint32(0):
        n_sel[i] = wanted
        if edged:
            # More of the edge's own than are kept: the first dropped is one of them.
            following = edge if before_ties > ties else below
            margin[i] = sub_rn(_score_of(edge), _score_of(following))


def indexer_select(
    ctx: Context,
    sel: DeviceArray,
    n_sel: DeviceArray,
    q: DeviceArray | None,
    head_w: DeviceArray | None,
    rows: IndexRows,
    pos0: int,
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
    pos0 : int
        Not looked at: the position is `ctx.pos`.
    ratio : int
    margin : float32 DeviceArray of shape (n,), overwritten, or None
        Score of the last row kept minus that of the first dropped; infinity when nothing is
        dropped.
    """
    n, top_k = sel.shape
    cap, d = rows.rows.shape
    edged = int(margin is not None)
    assert n_sel.shape == (n,), (sel, n_sel)
    if q is None or head_w is None:
        ctx.launch(indexer_top, n, sel, n_sel, margin, None, ctx.pos, 0, top_k, 0, ratio, edged)
    else:
        n_head = q.shape[1]
        assert q.shape == (n, n_head, d) and head_w.shape == (n, n_head), (q, head_w, rows.rows)
        at_once = max(min(n, SCORE_BYTES // (cap * 4)), 1)
        scores = ctx.scratch("indexer scores", (at_once, cap))
        narrow = _narrow(ctx, q) if rows.packed else None
        share = float(np.float32(1 / np.sqrt(np.float64(d * n_head))))
        for row0 in range(0, n, at_once):
            count = min(at_once, n - row0)
            _score(ctx, scores, narrow or q, head_w, rows, row0, count, ratio, top_k, share)
            ctx.launch(
                indexer_top, count, sel, n_sel, margin, scores, ctx.pos, row0, top_k, cap, ratio,
                edged,
            )  # fmt: skip
    ctx.wrote(sel, n_sel)
    if margin is not None:
        ctx.wrote(margin)


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
    row0: int,
    count: int,
    ratio: int,
    top_k: int,
    share: float,
) -> None:
    """Scores of queries row0 .. row0 + count - 1, of all rows that they see."""
    cap, d = rows.rows.shape
    args = (scores, q, head_w, rows.rows, ctx.pos, row0, count, q.shape[1], cap, ratio, top_k)
    if rows.packed:
        grid = (-(-cap // scoring.ROWS), -(-count // scoring.QUERIES))
        ctx.launch(scoring.indexer_scores_bf16, grid, *args, share)
    else:
        assert d % 4 == 0, d
        grid = (-(-cap // scoring.THREADS), count)
        ctx.launch(scoring.indexer_scores_f32, grid, *args, d, share)
