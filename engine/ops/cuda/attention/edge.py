"""The greatest of many scores by counting: integers that order as they do, compared in rounds.

A block finds the least of those that are kept, the edge, two bits a round with three candidates,
and writes the kept rows in ascending order. The first scores of each thread stay in registers. It
does not know what the rows are, or how many blocks share a query; see `select`.
"""

from __future__ import annotations

import math

from numba import cuda

from engine.ops.cuda.build.kernel import device
from engine.ops.cuda.build.ptx import (
    add_rn,
    ballot,
    bits_f32,
    f32_bits,
    popc,
    redux_add,
    redux_max,
    sub_rn,
)
from engine.ops.cuda.build.types import f32, i32, u32
from engine.ops.cuda.sizes import HELD, MOST, SELECT_THREADS

THREADS = SELECT_THREADS
WARPS = THREADS // 32
PARTS = 6 * WARPS
COUNTS = HELD * WARPS
MAGNITUDE = i32(0x7FFFFFFF)
NONE = i32(-0x80000000)  # key of NaN and of no row


@device
def _key(score):
    """Integer that orders as the score does, -0 like 0; NaN lowest."""
    bits = f32_bits(add_rn(score, f32(0)))
    key = i32(bits ^ i32(i32(bits >> i32(31)) & MAGNITUDE))
    return key if score == score else NONE


@device
def _score_of(key):
    bits = i32(key ^ i32(i32(key >> i32(31)) & MAGNITUDE))
    return f32(math.nan) if key == NONE else bits_f32(bits)


@device
def _counted(key, edge, seen):
    """Keys above the edge in a warp, and in the upper half of the word those equal to it."""
    above = popc(ballot(i32(seen and key > edge)))
    return i32(above | i32(popc(ballot(i32(seen and key == edge))) << i32(16)))


@device
def _placed(sel, out, counts, before, key, edge, ties, r, visible, lane, warp):
    """Write row r if it is kept; `before` and the warps' counts say what comes before it.

    Both count rows above the edge in the lower half, rows equal to it in the upper half, where
    MOST of them and more are the same: `ties` is less.
    """
    is_above, is_tie = r < visible and key > edge, r < visible and key == edge
    lower = i32(i32(i32(1) << i32(lane)) - i32(1))
    ahead = redux_add(counts if lane < warp else i32(0))
    above = i32(i32(before + ahead) & i32(0xFFFF))
    equal = i32(i32(before >> i32(16)) + i32(ahead >> i32(16)))
    above = i32(above + popc(i32(ballot(i32(is_above)) & lower)))
    equal = i32(equal + popc(i32(ballot(i32(is_tie)) & lower)))
    if is_above or (is_tie and equal < ties):
        sel[u32(out + u32(i32(above + min(equal, ties))))] = i32(r)
    whole = redux_add(counts)
    equal = min(i32(i32(before >> i32(16)) + i32(whole >> i32(16))), i32(MOST))
    above = i32(i32(before & i32(0xFFFF)) + i32(whole & i32(0xFFFF)))
    return i32(above | i32(equal << i32(16)))


@device
def _find_edge(keys, scores, row, visible, wanted, parts, thread):
    """Greatest integer that at least `wanted` keys reach, two bits a round.

    Rows past `visible` have the lowest key and are never counted above the first candidates, since
    those are greater. `parts` is shared memory of PARTS int32.
    """
    lane, warp = thread & u32(31), thread >> u32(5)
    edge = NONE
    for turn in range(16):
        shift = i32(i32(30) - i32(2) * i32(turn))
        step = i32(i32(1) << shift)
        c1 = i32(edge + step)
        c2 = i32(c1 + step)
        c3 = i32(c2 + step)
        # How many keys reach each of the three candidates: a thread's, a warp's, the block's.
        n1, n2, n3 = i32(0), i32(0), i32(0)
        for k in range(HELD):
            n1 = i32(n1 + i32(keys[k] >= c1))
            n2 = i32(n2 + i32(keys[k] >= c2))
            n3 = i32(n3 + i32(keys[k] >= c3))
        for r in range(u32(HELD * THREADS) + thread, visible, THREADS):
            key = _key(scores[u32(row + u32(r))])
            n1 = i32(n1 + i32(key >= c1))
            n2 = i32(n2 + i32(key >= c2))
            n3 = i32(n3 + i32(key >= c3))
        n1, n2, n3 = redux_add(n1), redux_add(n2), redux_add(n3)
        slot = u32(u32(turn & 1) * u32(3 * WARPS))
        if lane == u32(0):
            parts[u32(slot + warp)] = n1
            parts[u32(slot + u32(WARPS) + warp)] = n2
            parts[u32(slot + u32(2 * WARPS) + warp)] = n3
        cuda.syncthreads()
        n1 = redux_add(parts[u32(slot + lane)])
        n2 = redux_add(parts[u32(slot + u32(WARPS) + lane)])
        n3 = redux_add(parts[u32(slot + u32(2 * WARPS) + lane)])
        if n3 >= wanted:
            edge = c3
        elif n2 >= wanted:
            edge = c2
        elif n1 >= wanted:
            edge = c1
    cuda.syncthreads()
    return edge


@device
def _around_edge(keys, scores, row, visible, wanted, edge, parts, thread):
    """How many of the keys equal to the edge are kept, and the greatest key below it."""
    lane, warp = thread & u32(31), thread >> u32(5)
    above, below = i32(0), NONE
    for k in range(HELD):
        above = i32(above + i32(keys[k] > edge))
        below = keys[k] if below < keys[k] < edge else below
    for r in range(u32(HELD * THREADS) + thread, visible, THREADS):
        key = _key(scores[u32(row + u32(r))])
        above = i32(above + i32(key > edge))
        below = key if below < key < edge else below
    above, below = redux_add(above), redux_max(below)
    if lane == u32(0):
        parts[warp] = above
        parts[u32(u32(WARPS) + warp)] = below
    cuda.syncthreads()
    ties = i32(wanted - redux_add(parts[lane]))
    below = redux_max(parts[u32(u32(WARPS) + lane)])
    return ties, below


@device
def _write_kept(sel, out, keys, scores, row, visible, edge, ties, counts, thread):
    """Rows above the edge and the first `ties` equal to it, ascending, to sel from `out` on.

    Returns how many keys equal the edge, MOST if there are more.

    Tiles of THREADS rows, in order: how many each warp keeps, then where they go. `counts` is
    shared memory of COUNTS int32.
    """
    lane, warp = thread & u32(31), thread >> u32(5)
    before = i32(0)
    for k in range(HELD):
        if u32(k * THREADS) < visible:
            r = u32(u32(k * THREADS) + thread)
            counts[u32(u32(k * WARPS) + warp)] = _counted(keys[k], edge, r < visible)
    cuda.syncthreads()
    for k in range(HELD):
        if u32(k * THREADS) < visible:
            r = u32(u32(k * THREADS) + thread)
            seen = counts[u32(u32(k * WARPS) + lane)]
            before = _placed(sel, out, seen, before, keys[k], edge, ties, r, visible, lane, warp)
    cuda.syncthreads()

    # The same for rows that no thread holds, tile by tile.
    slot = u32(0)
    for begin in range(u32(HELD * THREADS), visible, THREADS):
        r = u32(begin + thread)
        key = NONE
        if r < visible:
            key = _key(scores[u32(row + r)])
        # Two sets of counts in turn: one barrier a tile.
        slot = u32(u32(WARPS) - slot)
        counts[u32(slot + warp)] = _counted(key, edge, r < visible)
        cuda.syncthreads()
        before = _placed(
            sel, out, counts[u32(slot + lane)], before, key, edge, ties, r, visible, lane, warp
        )
    return i32(before >> i32(16))


@device
def held_keys(keys, scores, row, visible, thread):
    """Integers of the first HELD scores of a thread; those past `visible` are NONE."""
    for k in range(HELD):
        r = u32(u32(k * THREADS) + thread)
        keys[k] = NONE
        if r < visible:
            keys[k] = _key(scores[u32(row + r)])


@device
def keep(sel, out, keys, scores, row, visible, wanted, parts, counts, thread):
    """The `wanted` greatest of more than as many scores, to sel: edge, ties, below, equal."""
    edge = _find_edge(keys, scores, row, visible, wanted, parts, thread)
    ties, below = _around_edge(keys, scores, row, visible, wanted, edge, parts, thread)
    equal = _write_kept(sel, out, keys, scores, row, visible, edge, ties, counts, thread)
    return edge, ties, below, equal


@device
def gap(edge, ties, below, equal):
    """Score of the last row kept minus that of the first dropped."""
    # More of the edge's own than are kept: the first dropped is one of them.
    following = edge if equal > ties else below
    return sub_rn(_score_of(edge), _score_of(following))
