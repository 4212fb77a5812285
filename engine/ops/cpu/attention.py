"""Attention over the raw window and compressed rows; one row is both key and value.

A task is one token with some of its heads: it takes the dots of every row with four heads at a
time, so a row is loaded once for four heads, then the softmax per head, then the rows again.
Heads and rows are padded to the tile; padding is computed and thrown away, so that no output
depends on how many neighbours it has.
"""

from __future__ import annotations

import math

import numpy as np

from engine.ops.cpu.runtime.jit import inline_kernel, kernel
from engine.ops.cpu.runtime.over import over
from engine.ops.cpu.runtime.team import team, threads
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
    share = TASK_HEADS
    if n < 4 * threads():
        # Few tokens: cut the heads so that every thread gets some.
        share = min(share, -(-n_head // (threads() * HEADS)) * HEADS)
    _all(team(), out, q, ring, rows, sel, n_sel, use_sel, sinks, pos0, n_swa, ratio, share, seen)
