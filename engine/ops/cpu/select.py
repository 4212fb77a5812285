"""Scores of the indexer's rows and the choice of the greatest: linear in the visible rows."""

from __future__ import annotations

import numpy as np

from engine.ops.cpu.indexer import BIAS, BLOCK, ONE, TWO, block_scale, code_of
from engine.ops.cpu.runtime.jit import inline_kernel, kernel
from engine.ops.cpu.runtime.over import over
from engine.ops.cpu.runtime.team import team
from engine.ops.cpu.simd import vec
from engine.ops.cpu.simd.tile import HEADS, ROWS, dots_4x4
from engine.ops.cpu.simd.vec import LANES, bits_of, float_of

TOKENS = 8  # tokens whose scores exist at a time
SPAN = 512  # rows of one scoring task
CHOICE_COST = 8  # multiply-adds that choosing is worth for each score
NO_MARGIN = np.empty(0, np.float32)
NO_QUERY = np.empty((0, 0, 0), np.float32)
NO_WEIGHTS = np.empty((0, 0), np.float32)
QUADS = BLOCK // 4
ZERO = np.float32(0)
INFINITY = np.float32(np.inf)
HIGH, MIDDLE, LOW = 11, 11, 10  # bits of a key, counted level by level


@inline_kernel
def _scores_f32(scores, rows, first, stop, q, weights):
    """scores[r] of rows first .. stop - 1 (multiples of 16) with float32 dots."""
    n_head, d = q.shape
    padded = weights.size
    dots = np.empty(padded * LANES, np.float32)
    q_base = vec.address(q)
    k_base = vec.address(rows)
    for begin in range(first, stop, LANES):
        for h in range(0, padded, HEADS):
            last = n_head - 1
            q0 = q_base + min(h, last) * d * 4
            q1 = q_base + min(h + 1, last) * d * 4
            q2 = q_base + min(h + 2, last) * d * 4
            q3 = q_base + min(h + 3, last) * d * 4
            for r in range(0, LANES, ROWS):
                k = k_base + (begin + r) * d * 4
                step = d * 4
                tile = dots_4x4(q0, q1, q2, q3, k, k + step, k + 2 * step, k + 3 * step, d)
                vec.store_quarters(dots, h * LANES + r, LANES, tile)
        total = vec.zero()
        for h in range(n_head):
            dot = vec.relu(vec.load(dots, h * LANES))
            total = vec.fma(dot, vec.splat(vec.at(weights, h)), total)
        vec.store(scores, begin, total)


@inline_kernel
def _block_dot(total, products, row_scale, q_scales, at):
    """total + integer products of one block, times both scales."""
    scale = vec.mul(row_scale, vec.splat(vec.at(q_scales, at)))
    return vec.fma(vec.to_float(products), scale, total)


@inline_kernel
def _dots_4(codes, scales, group, n_block, packed, start, offsets, q_scales, at):
    """Dots of sixteen rows with four queries, negative ones as 0: lanes are rows."""
    quads = n_block * QUADS
    d0 = vec.zero()
    d1 = vec.zero()
    d2 = vec.zero()
    d3 = vec.zero()
    for b in range(n_block):
        i0 = vec.splat(vec.at(offsets, at + b))
        i1 = vec.splat(vec.at(offsets, at + n_block + b))
        i2 = vec.splat(vec.at(offsets, at + 2 * n_block + b))
        i3 = vec.splat(vec.at(offsets, at + 3 * n_block + b))
        for k in range(b * QUADS, b * QUADS + QUADS):
            u = vec.load(codes, (group * quads + k) * 64)
            i0 = vec.dot4(i0, u, vec.splat(vec.at(packed, start + k)))
            i1 = vec.dot4(i1, u, vec.splat(vec.at(packed, start + quads + k)))
            i2 = vec.dot4(i2, u, vec.splat(vec.at(packed, start + 2 * quads + k)))
            i3 = vec.dot4(i3, u, vec.splat(vec.at(packed, start + 3 * quads + k)))
        s = vec.load(scales, (group * n_block + b) * LANES)
        d0 = _block_dot(d0, i0, s, q_scales, at + b)
        d1 = _block_dot(d1, i1, s, q_scales, at + n_block + b)
        d2 = _block_dot(d2, i2, s, q_scales, at + 2 * n_block + b)
        d3 = _block_dot(d3, i3, s, q_scales, at + 3 * n_block + b)
    return vec.relu(d0), vec.relu(d1), vec.relu(d2), vec.relu(d3)


@inline_kernel
def _scores_codes(scores, codes, scales, first, stop, packed, offsets, q_scales, weights):
    """scores[r] of rows first .. stop - 1 (multiples of 16) from FP4 codes."""
    padded = weights.size
    n_block = scales.shape[1]
    quads = n_block * QUADS
    flat_codes, flat_scales = codes.reshape(-1), scales.reshape(-1)
    flat_packed, flat_offsets = packed.reshape(-1), offsets.reshape(-1)
    flat_q = q_scales.reshape(-1)
    for begin in range(first, stop, LANES):
        total = vec.zero()
        for h in range(0, padded, HEADS):
            d0, d1, d2, d3 = _dots_4(
                flat_codes,
                flat_scales,
                begin // LANES,
                n_block,
                flat_packed,
                h * quads,
                flat_offsets,
                flat_q,
                h * n_block,
            )
            total = vec.fma(d0, vec.splat(vec.at(weights, h)), total)
            total = vec.fma(d1, vec.splat(vec.at(weights, h + 1)), total)
            total = vec.fma(d2, vec.splat(vec.at(weights, h + 2)), total)
            total = vec.fma(d3, vec.splat(vec.at(weights, h + 3)), total)
        vec.store(scores, begin, total)


@inline_kernel
def _encode_head(codes, offsets, q_scales, head):
    for b in range(head.size // BLOCK):
        block = head[b * BLOCK : b * BLOCK + BLOCK]
        to = codes[b * BLOCK : b * BLOCK + BLOCK]
        scale = block_scale(block)
        inverse = ONE / scale
        # Rows and queries both carry twice the value.
        q_scales[b] = scale / (TWO * TWO)
        total = np.int32(0)
        for j in range(BLOCK):
            code = code_of(block[j], inverse)
            total = np.int32(total + code)
            to[j] = np.uint8(code & np.int32(255))
        offsets[b] = np.int32(-BIAS * total)


@kernel
def _encode_queries(packed, offsets, q_scales, weights, q, head_w, begin, count, official):
    """Codes, scales and weights of `count` queries from row `begin` on; padding heads are 0."""
    n_head, d = q.shape[1:]
    codes = packed.view(np.uint8)
    share = np.float32(1.0 / np.sqrt(np.float64(d * n_head)))
    for i in range(count):
        for h in range(n_head):
            weights[i, h] = head_w[begin + i, h] * share
            if official:
                _encode_head(codes[i, h], offsets[i, h], q_scales[i, h], q[begin + i, h])


@inline_kernel
def _key(score):
    """Integer that orders as the score does, -0 like 0; NaN on top."""
    bits = np.int64(bits_of(score + ZERO)) & 0xFFFFFFFF
    return bits ^ 0xFFFFFFFF if bits >> 31 else bits | 0x80000000


@inline_kernel
def _score_of(key):
    return float_of(key ^ 0x80000000 if key >> 31 else key ^ 0xFFFFFFFF)


@inline_kernel
def _bin_of_rank(counts, n_bin, rank):
    """Bin that holds the rank-th greatest, counted from the top bin, and the rank within it."""
    b = n_bin - 1
    while b > 0 and counts[b] < rank:
        rank -= counts[b]
        b -= 1
    return b, rank


@inline_kernel
def _kth_key(keys, n, k, counts, left):
    """Key of the k-th greatest, and how many of that key belong to the k."""
    counts[:] = 0
    for r in range(n):
        counts[keys[r] >> (MIDDLE + LOW)] += 1
    b, rank = _bin_of_rank(counts, 1 << HIGH, k)
    prefix = b
    n_left = 0
    counts[:] = 0
    for r in range(n):
        if keys[r] >> (MIDDLE + LOW) == b:
            left[n_left] = keys[r]
            n_left += 1
            counts[keys[r] >> LOW & ((1 << MIDDLE) - 1)] += 1
    b, rank = _bin_of_rank(counts, 1 << MIDDLE, rank)
    prefix = prefix << MIDDLE | b
    counts[:] = 0
    for r in range(n_left):
        if left[r] >> LOW == prefix:
            counts[left[r] & ((1 << LOW) - 1)] += 1
    b, rank = _bin_of_rank(counts, 1 << LOW, rank)
    return prefix << LOW | b, rank


@inline_kernel
def _choose(sel, scores, k):
    """Row numbers of the k greatest scores, ascending; the margin."""
    visible = scores.size
    keys = np.empty(visible, np.int64)
    left = np.empty(visible, np.int64)
    counts = np.empty(1 << HIGH, np.int32)
    for r in range(visible):
        keys[r] = _key(scores[r])
    edge, ties = _kth_key(keys, visible, k, counts, left)
    held = 0
    dropped = np.int64(-1)
    for r in range(visible):
        key = keys[r]
        if key > edge or (key == edge and ties > 0):
            if key == edge:
                ties -= 1
            sel[held] = r
            held += 1
        elif key > dropped:
            dropped = key
    return _score_of(edge) - _score_of(dropped)


@kernel
def _finish(sel, n_sel, scores, row, i, pos0, ratio, margin):
    """Choose for row i of the call; its scores are row `row` of the scores at hand."""
    top_k = sel.shape[1]
    visible = (pos0 + i + 1) // ratio
    kept = min(visible, top_k)
    n_sel[i] = kept
    gap = INFINITY
    if visible > top_k:
        gap = _choose(sel[i], scores[row, :visible], top_k)
    else:
        for r in range(kept):
            sel[i, r] = r
    if margin.size:
        margin[i] = gap


@kernel
def _all(sel, n_sel, pos0, ratio, margin):
    """Every visible row of every query."""
    scores = np.empty((1, 0), np.float32)
    for i in range(n_sel.shape[0]):
        _finish(sel, n_sel, scores, 0, i, pos0, ratio, margin)


@kernel
def _finish_rows(sel, n_sel, scores, begin, pos0, ratio, margin, first, last):
    """Choose for rows begin + first .. begin + last - 1 of the call."""
    for i in range(first, last):
        _finish(sel, n_sel, scores, i, begin + i, pos0, ratio, margin)


@inline_kernel
def _score_task(scores, codes, scales, rows, q, packed, offsets, q_scales, weights, spec, task):
    """One span of rows for one token of the tokens at hand."""
    begin, count, pos0, ratio, top_k, official = spec
    # Neighbouring tasks are tokens of one span, whose rows stay in the cache.
    i = task % count
    visible = (pos0 + begin + i + 1) // ratio
    first = task // count * SPAN
    if visible <= top_k or first >= visible:
        return
    stop = min(first + SPAN, (visible + LANES - 1) // LANES * LANES)
    if official:
        query = packed[i], offsets[i], q_scales[i], weights[i]
        _scores_codes(scores[i], codes, scales, first, stop, *query)
    else:
        _scores_f32(scores[i], rows, first, stop, q[begin + i], weights[i])


@kernel
def _score_tasks(
    scores, codes, scales, rows, q, packed, offsets, q_scales, weights, spec, first, last
):
    for task in range(first, last):
        _score_task(scores, codes, scales, rows, q, packed, offsets, q_scales, weights, spec, task)


@inline_kernel
def _buffers(visible, n, n_head, d):
    """Scores, packed codes, offsets, scales and weights of up to TOKENS queries."""
    tokens = min(n, TOKENS)
    padded = (n_head + HEADS - 1) // HEADS * HEADS
    return (
        np.empty((tokens, (visible + LANES - 1) // LANES * LANES), np.float32),
        np.zeros((tokens, padded, d // 4), np.int32),
        np.zeros((tokens, padded, d // BLOCK), np.int32),
        np.zeros((tokens, padded, d // BLOCK), np.float32),
        np.zeros((tokens, padded), np.float32),
    )


@kernel
def _select(team, sel, n_sel, q, head_w, codes, scales, rows, official, pos0, ratio, margin):
    n, n_head, d = q.shape
    top_k = sel.shape[1]
    visible = (pos0 + n) // ratio
    scores, packed, offsets, q_scales, weights = _buffers(visible, n, n_head, d)
    spans = (visible + SPAN - 1) // SPAN
    for begin in range(0, n, TOKENS):
        count = min(TOKENS, n - begin)
        _encode_queries(packed, offsets, q_scales, weights, q, head_w, begin, count, official)
        spec = (begin, count, pos0, ratio, top_k, official)
        data = (scores, codes, scales, rows, q, packed, offsets, q_scales, weights, spec)
        over(team, count * spans, SPAN * n_head * d // 4, _score_tasks, data)
        chosen = (sel, n_sel, scores, begin, pos0, ratio, margin)
        over(team, count, CHOICE_COST * visible, _finish_rows, chosen)


def indexer_select(sel, n_sel, q, head_w, rows, pos0, ratio, margin):
    margin = NO_MARGIN if margin is None else margin
    n, top_k = sel.shape
    visible = (pos0 + n) // ratio
    if visible <= top_k:
        _all(sel, n_sel, pos0, ratio, margin)
        return
    codes, scales, values = rows.codes, rows.scales, rows.rows
    _select(
        team(), sel, n_sel, q, head_w, codes, scales, values, rows.official, pos0, ratio, margin
    )
