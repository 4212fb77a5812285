"""Compressed KV rows: windows pooled per dim by a softmax over their gates; rings by position."""

from __future__ import annotations

import numpy as np

from engine.ops.cpu.jit import inline_kernel, kernel, parallel_kernel, prange
from engine.ops.cpu.kv import store_rows
from engine.ops.cpu.scalar import exp

PARALLEL_VALUES = 1 << 14  # candidates' values


@inline_kernel
def _scores_of(buffer, position, column, d, ring_score, score, ape, pos0, ratio):
    """Scores of one candidate's d columns, ape included; ring rows include it already."""
    width = score.shape[1]
    if position < pos0:
        start = position % ring_score.shape[0] * width + column
        flat = ring_score.reshape(-1)
        for j in range(d):
            buffer[j] = flat[start + j]
    else:
        start = (position - pos0) * width + column
        flat = score.reshape(-1)
        flat_ape = ape.reshape(-1)
        bias = position % ratio * width + column
        for j in range(d):
            buffer[j] = flat[start + j] + flat_ape[bias + j]


@inline_kernel
def _weigh(pooled, to, total, top, buffer, values, start, d):
    for j in range(d):
        e = exp(buffer[j] - top[j])
        total[j] += e
        pooled[to + j] += e * values[start + j]


@kernel
def _pool_window(pooled, i, ring_kv, ring_score, kv, score, ape, pos0, ratio):
    d, width = pooled.shape[1], kv.shape[1]
    out = pooled.reshape(-1)
    to = i * d
    start = (pos0 // ratio + i) * ratio
    # The window before gives its first half; a window at position 0 has none before it.
    first = start - 4 if ratio == 4 and start else start
    buffer = np.empty(d, np.float32)
    top = np.full(d, -np.inf, np.float32)
    total = np.zeros(d, np.float32)
    for position in range(first, start + ratio):
        column = 0 if position < start else width - d
        _scores_of(buffer, position, column, d, ring_score, score, ape, pos0, ratio)
        for j in range(d):
            top[j] = buffer[j] if buffer[j] > top[j] else top[j]
    for j in range(d):
        out[to + j] = np.float32(0)
    for position in range(first, start + ratio):
        column = 0 if position < start else width - d
        _scores_of(buffer, position, column, d, ring_score, score, ape, pos0, ratio)
        if position < pos0:
            at = position % ring_kv.shape[0] * width + column
            _weigh(out, to, total, top, buffer, ring_kv.reshape(-1), at, d)
        else:
            at = (position - pos0) * width + column
            _weigh(out, to, total, top, buffer, kv.reshape(-1), at, d)
    for j in range(d):
        out[to + j] /= total[j]


@kernel
def _remember(ring_kv, ring_score, kv, score, ape, pos0, ratio):
    n, width = kv.shape
    rows = ring_kv.shape[0]
    flat_kv, flat_score = ring_kv.reshape(-1), ring_score.reshape(-1)
    from_kv, from_score, flat_ape = kv.reshape(-1), score.reshape(-1), ape.reshape(-1)
    for i in range(max(n - rows, 0), n):
        to = (pos0 + i) % rows * width
        start = i * width
        bias = (pos0 + i) % ratio * width
        for j in range(width):
            flat_kv[to + j] = from_kv[start + j]
        for j in range(width):
            flat_score[to + j] = from_score[start + j] + flat_ape[bias + j]


@kernel
def _pool(pooled, ring_kv, ring_score, kv, score, ape, pos0, ratio):
    for i in range(pooled.shape[0]):
        _pool_window(pooled, i, ring_kv, ring_score, kv, score, ape, pos0, ratio)
    _remember(ring_kv, ring_score, kv, score, ape, pos0, ratio)


@parallel_kernel
def _pool_parallel(pooled, ring_kv, ring_score, kv, score, ape, pos0, ratio):
    for i in prange(pooled.shape[0]):
        _pool_window(pooled, i, ring_kv, ring_score, kv, score, ape, pos0, ratio)
    _remember(ring_kv, ring_score, kv, score, ape, pos0, ratio)


def compressor_pool(pooled, ring_kv, ring_score, kv, score, ape, pos0, ratio):
    n_emit = len(pooled)
    assert n_emit == (pos0 + len(kv)) // ratio - pos0 // ratio, (n_emit, pos0, kv.shape)
    run = _pool_parallel if n_emit > 1 and kv.size >= PARALLEL_VALUES else _pool
    run(pooled, ring_kv, ring_score, kv, score, ape, pos0, ratio)


def compressor_store(rows, row0, pooled, weight, cos, sin, eps, official):
    if len(pooled):
        store_rows(rows, pooled, weight, cos, sin, row0, eps, official)
