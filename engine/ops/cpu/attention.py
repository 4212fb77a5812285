"""Attention over the raw window and compressed rows; one row is both key and value.

A task is one token with some of its heads: it takes the dots of every row with four heads at a
time, so a row is loaded once for four heads, then the softmax per head, then the rows again. With
few tokens the work is cut so that threads share the rows instead of reading all of them each.
Heads and rows are padded to the tile; padding is computed and thrown away, so that no output
depends on how many neighbours it has.
"""

from __future__ import annotations

import math

import numpy as np

from engine.ops.cpu.runtime.jit import inline_kernel, kernel
from engine.ops.cpu.runtime.over import over
from engine.ops.cpu.runtime.team import team
from engine.ops.cpu.simd import vec
from engine.ops.cpu.simd.scalar import exp
from engine.ops.cpu.simd.tile import (
    HEADS,
    ROWS,
    dots_4x4,
    weighted_rows_1x16,
    weighted_rows_4x64,
)
from engine.ops.cpu.simd.vec import LANES

TASK_HEADS = 16  # heads of a task when there are enough tokens: their queries fit in L1
ROW_BLOCK = 16  # rows whose values stay in L1 while every head takes them
COLUMNS = 64  # of a weighted sum's unit: the widest tile
FEW = 8  # tokens from which on cutting by tokens and heads is better
WEIGHT_COST = 16  # multiply-adds that one exponential of the softmax is worth
LINE = 64  # bytes
LOWEST = np.float32(-np.inf)
NO_ROWS = np.empty((0, 0), np.float32)
NO_SEL = np.empty((0, 0), np.int32)
NO_COUNT = np.empty(0, np.int32)


@inline_kernel
def _row_addresses(where, ring, rows, sel, n_sel, use_sel, i, pos, n_swa, ratio):
    """Fill `where` with the addresses of the rows that row i of the call sees; their number."""
    cap, d = ring.shape
    base = vec.address(ring)
    count = 0
    for p in range(max(pos + 1 - n_swa, 0), pos + 1):
        where[count] = base + p % cap * d * 4
        count += 1
    if ratio:
        base = vec.address(rows)
        if use_sel:
            for k in range(n_sel[i]):
                where[count] = base + np.int64(sel[i, k]) * d * 4
                count += 1
        else:
            for c in range((pos + 1) // ratio):
                where[count] = base + c * d * 4
                count += 1
    return count


@inline_kernel
def _prefetch(where, first, stop, turn, turns, begin, end):
    """Ask for bytes begin .. end - 1 of this turn's share of rows first .. stop - 1.

    Chosen rows are scattered, so the hardware does not foresee them.
    """
    for r in range(first + turn, min(stop, where.size), turns):
        base = vec.at(where, r)
        for at in range(begin, end, LINE):
            vec.prefetch_at(base + at)


@inline_kernel
def _softmax(scores, count, scale, sink):
    """Scores to weights in place, those from `count` on to 0; the factor 1 / denominator."""
    for r in range(count, scores.size):
        scores[r] = LOWEST
    top = vec.splat(LOWEST)
    for r in range(0, scores.size, LANES):
        top = vec.maximum(top, vec.load(scores, r))
    m = vec.max_lanes(top) * scale
    m = sink if sink > m else m
    for r in range(scores.size):
        scores[r] = exp(scores[r] * scale - m)
    total = vec.zero()
    for r in range(0, scores.size, LANES):
        total = vec.add(total, vec.load(scores, r))
    return np.float32(1) / (vec.sum_lanes(total) + exp(sink - m))


@inline_kernel
def _task(out, q, ring, rows, sel, n_sel, use_sel, sinks, pos0, n_swa, ratio, i, h0, h1):
    """Heads h0 .. h1 - 1 of row i."""
    n_head, d = q.shape[1:]
    pos = pos0 + i
    most = min(n_swa, pos + 1)
    if ratio:
        most += n_sel[i] if use_sel else (pos + 1) // ratio
    padded = (most + LANES - 1) // LANES * LANES
    heads = (h1 - h0 + HEADS - 1) // HEADS * HEADS
    where = np.empty(padded, np.int64)
    count = _row_addresses(where, ring, rows, sel, n_sel, use_sel, i, pos, n_swa, ratio)
    for r in range(count, padded):
        where[r] = where[count - 1]
    scores = np.empty(heads * padded, np.float32)
    acc = np.zeros(heads * d, np.float32)
    scale = np.float32(1.0 / math.sqrt(d))

    base = vec.address(q) + i * n_head * d * 4
    for r in range(0, padded, ROWS):
        k0, k1, k2, k3 = where[r], where[r + 1], where[r + 2], where[r + 3]
        for h in range(0, heads, HEADS):
            _prefetch(where, r + ROWS, r + 2 * ROWS, h // HEADS, heads // HEADS, 0, d * 4)
            last = h1 - 1
            q0 = base + min(h0 + h, last) * d * 4
            q1 = base + min(h0 + h + 1, last) * d * 4
            q2 = base + min(h0 + h + 2, last) * d * 4
            q3 = base + min(h0 + h + 3, last) * d * 4
            dots = dots_4x4(q0, q1, q2, q3, k0, k1, k2, k3, d)
            vec.store_quarters(scores, h * padded + r, padded, dots)

    factor = np.empty(heads, np.float32)
    for h in range(heads):
        sink = sinks[min(h0 + h, h1 - 1)]
        factor[h] = _softmax(scores[h * padded : (h + 1) * padded], count, scale, sink)

    wide = d // 64 * 64
    for first in range(0, count, ROW_BLOCK):
        stop = min(first + ROW_BLOCK, count)
        for h in range(0, heads, HEADS):
            at = h * padded
            for j in range(0, wide, 64):
                turn, turns = h // HEADS, heads // HEADS
                _prefetch(where, stop, stop + ROW_BLOCK, turn, turns, j * 4, j * 4 + 256)
                weighted_rows_4x64(acc, h * d + j, d, scores, at, padded, where, first, stop, j * 4)
            for j in range(wide, d, LANES):
                for k in range(HEADS):
                    to = (h + k) * d + j
                    weighted_rows_1x16(acc, to, scores, at + k * padded, where, first, stop, j * 4)

    for h in range(h1 - h0):
        f, row, values = factor[h], out[i, h0 + h], acc[h * d : (h + 1) * d]
        for j in range(d):
            row[j] = values[j] * f


@kernel
def _tasks(out, q, ring, rows, sel, n_sel, use_sel, sinks, pos0, n_swa, ratio, share, first, last):
    """Tasks first .. last - 1; every row of the call has as many tasks as shares of heads."""
    n_head = q.shape[1]
    groups = (n_head + share - 1) // share
    for t in range(first, last):
        i = t // groups
        h0 = t % groups * share
        h1 = min(h0 + share, n_head)
        _task(out, q, ring, rows, sel, n_sel, use_sel, sinks, pos0, n_swa, ratio, i, h0, h1)


@kernel
def _all(team, out, q, ring, rows, sel, n_sel, use_sel, sinks, pos0, n_swa, ratio, share, seen):
    n, n_head, d = q.shape
    data = (out, q, ring, rows, sel, n_sel, use_sel, sinks, pos0, n_swa, ratio, share)
    over(team, n * ((n_head + share - 1) // share), 2 * share * d * seen, _tasks, data)


# Few rows: every thread would read all rows of the cache for its own heads. So each of three
# regions is cut another way: dots by cache rows, softmax by heads, weighted sums by columns.


@kernel
def _few_dots(scores, q, where, first, last):
    """Dots of all heads with blocks of ROW_BLOCK cache rows; a unit is one block of one row."""
    n_head, d = q.shape[1:]
    heads, padded = scores.shape[1:]
    blocks = padded // ROW_BLOCK
    flat = scores.reshape(-1)
    for unit in range(first, last):
        i, block = unit // blocks, unit % blocks
        seen = where[i]
        base = vec.address(q) + i * n_head * d * 4
        for r in range(block * ROW_BLOCK, (block + 1) * ROW_BLOCK, ROWS):
            k0, k1, k2, k3 = seen[r], seen[r + 1], seen[r + 2], seen[r + 3]
            for h in range(0, heads, HEADS):
                _prefetch(seen, r + ROWS, r + 2 * ROWS, h // HEADS, heads // HEADS, 0, d * 4)
                q0 = base + min(h, n_head - 1) * d * 4
                q1 = base + min(h + 1, n_head - 1) * d * 4
                q2 = base + min(h + 2, n_head - 1) * d * 4
                q3 = base + min(h + 3, n_head - 1) * d * 4
                dots = dots_4x4(q0, q1, q2, q3, k0, k1, k2, k3, d)
                vec.store_quarters(flat, (i * heads + h) * padded + r, padded, dots)


@kernel
def _few_weights(scores, factor, counts, sinks, scale, first, last):
    """Softmax of one head of one row per unit."""
    heads = scores.shape[1]
    for unit in range(first, last):
        i, h = unit // heads, unit % heads
        sink = sinks[min(h, sinks.size - 1)]
        factor[i, h] = _softmax(scores[i, h], counts[i], scale, sink)


@kernel
def _few_sums(out, sums, scores, factor, where, counts, first, last):
    """Weighted sums of all heads in COLUMNS columns of one row per unit."""
    n_head, d = out.shape[1:]
    heads, padded = scores.shape[1:]
    parts = (d + COLUMNS - 1) // COLUMNS
    flat, weights = sums.reshape(-1), scores.reshape(-1)
    for unit in range(first, last):
        i, begin = unit // parts, unit % parts * COLUMNS
        end = min(begin + COLUMNS, d)
        seen, count = where[i], counts[i]
        for r0 in range(0, count, ROW_BLOCK):
            r1 = min(r0 + ROW_BLOCK, count)
            for h in range(0, heads, HEADS):
                turn, turns = h // HEADS, heads // HEADS
                _prefetch(seen, r1, r1 + ROW_BLOCK, turn, turns, begin * 4, end * 4)
                at, to = (i * heads + h) * padded, (i * heads + h) * d + begin
                if end - begin == COLUMNS:
                    weighted_rows_4x64(flat, to, d, weights, at, padded, seen, r0, r1, begin * 4)
                    continue
                for j in range(0, end - begin, LANES):
                    for k in range(HEADS):
                        column = (begin + j) * 4
                        weighted_rows_1x16(
                            flat, to + k * d + j, weights, at + k * padded, seen, r0, r1, column
                        )
        for h in range(n_head):
            f, row, values = factor[i, h], out[i, h], sums[i, h]
            for j in range(begin, end):
                row[j] = values[j] * f


@kernel
def _few(team, out, q, ring, rows, sel, n_sel, use_sel, sinks, pos0, n_swa, ratio, seen):
    n, n_head, d = q.shape
    padded = (seen + ROW_BLOCK - 1) // ROW_BLOCK * ROW_BLOCK
    heads = (n_head + HEADS - 1) // HEADS * HEADS
    where = np.empty((n, padded), np.int64)
    counts = np.empty(n, np.int64)
    for i in range(n):
        at = where[i]
        count = _row_addresses(at, ring, rows, sel, n_sel, use_sel, i, pos0 + i, n_swa, ratio)
        for r in range(count, padded):
            at[r] = at[count - 1]
        counts[i] = count
    scores = np.empty((n, heads, padded), np.float32)
    factor = np.empty((n, heads), np.float32)
    sums = np.zeros((n, heads, d), np.float32)
    scale = np.float32(1.0 / math.sqrt(d))
    dots = (scores, q, where)
    over(team, n * (padded // ROW_BLOCK), heads * d * ROW_BLOCK, _few_dots, dots)
    weigh = (scores, factor, counts, sinks, scale)
    over(team, n * heads, WEIGHT_COST * padded, _few_weights, weigh)
    add = (out, sums, scores, factor, where, counts)
    over(team, n * ((d + COLUMNS - 1) // COLUMNS), heads * seen * COLUMNS, _few_sums, add)


def attend(out, q, ring, rows, sel, n_sel, sinks, pos0, n_swa, ratio):
    n, n_head, d = q.shape
    assert d % LANES == 0, d
    last = pos0 + n
    seen = min(n_swa, last)
    use_sel = sel is not None
    if ratio:
        seen += min(last // ratio, sel.shape[1]) if use_sel else last // ratio
    rows = NO_ROWS if rows is None else rows
    if not use_sel:
        sel, n_sel = NO_SEL, NO_COUNT
    if n < FEW:
        _few(team(), out, q, ring, rows, sel, n_sel, use_sel, sinks, pos0, n_swa, ratio, seen)
        return
    share = min(TASK_HEADS, -(-n_head // HEADS) * HEADS)
    _all(team(), out, q, ring, rows, sel, n_sel, use_sel, sinks, pos0, n_swa, ratio, share, seen)
