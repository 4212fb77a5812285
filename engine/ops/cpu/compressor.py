"""Compressed KV rows: windows pooled per dim by a softmax over their gates; rings by position."""

from __future__ import annotations

import numpy as np

from engine.ops.cpu.kv import store_rows
from engine.ops.cpu.runtime.jit import inline_kernel, kernel
from engine.ops.cpu.runtime.over import over
from engine.ops.cpu.runtime.team import team
from engine.ops.cpu.simd.scalar import exp

VALUE_COST = 16  # multiply-adds that a pooled value is worth
LOWEST = np.float32(-np.inf)
ZERO = np.float32(0)


@inline_kernel
def _candidate(buffer, position, column, ring_kv, ring_score, kv, score, ape, pos0, ratio):
    """One candidate's values; its scores, ape included, go to buffer (ring rows include it)."""
    stop = column + buffer.size
    if position < pos0:
        at = position % ring_kv.shape[0]
        source = ring_score[at, column:stop]
        for j in range(buffer.size):
            buffer[j] = source[j]
        return ring_kv[at, column:stop]
    at = position - pos0
    source = score[at, column:stop]
    bias = ape[position % ratio, column:stop]
    for j in range(buffer.size):
        buffer[j] = source[j] + bias[j]
    return kv[at, column:stop]


@inline_kernel
def _pool_window(out, window, ring_kv, ring_score, kv, score, ape, pos0, ratio):
    d, width = out.size, kv.shape[1]
    start = window * ratio
    # The window before gives its first half; a window at position 0 has none before it.
    first = start - 4 if ratio == 4 and start else start
    buffer = np.empty(d, np.float32)
    top = np.full(d, LOWEST, np.float32)
    total = np.zeros(d, np.float32)
    for position in range(first, start + ratio):
        column = 0 if position < start else width - d
        _candidate(buffer, position, column, ring_kv, ring_score, kv, score, ape, pos0, ratio)
        for j in range(d):
            top[j] = buffer[j] if buffer[j] > top[j] else top[j]
    for j in range(d):
        out[j] = ZERO
    for position in range(first, start + ratio):
        column = 0 if position < start else width - d
        values = _candidate(
            buffer, position, column, ring_kv, ring_score, kv, score, ape, pos0, ratio
        )
        for j in range(d):
            buffer[j] = exp(buffer[j] - top[j])
        for j in range(d):
            total[j] += buffer[j]
        for j in range(d):
            out[j] += buffer[j] * values[j]
    for j in range(d):
        out[j] /= total[j]


@kernel
def _remember(ring_kv, ring_score, kv, score, ape, pos0, ratio):
    n = kv.shape[0]
    rows = ring_kv.shape[0]
    for i in range(max(n - rows, 0), n):
        at = (pos0 + i) % rows
        to, source = ring_kv[at], kv[i]
        for j in range(to.size):
            to[j] = source[j]
        to, source, bias = ring_score[at], score[i], ape[(pos0 + i) % ratio]
        for j in range(to.size):
            to[j] = source[j] + bias[j]


@kernel
def _pool(pooled, ring_kv, ring_score, kv, score, ape, pos0, ratio, first, last):
    for i in range(first, last):
        window = pos0 // ratio + i
        _pool_window(pooled[i], window, ring_kv, ring_score, kv, score, ape, pos0, ratio)


@kernel
def _pool_all(team, pooled, ring_kv, ring_score, kv, score, ape, pos0, ratio):
    n, d = pooled.shape
    rows = (pooled, ring_kv, ring_score, kv, score, ape, pos0, ratio)
    over(team, n, VALUE_COST * ratio * d, _pool, rows)
    # Only now: pooling still reads positions that these rows replace.
    _remember(ring_kv, ring_score, kv, score, ape, pos0, ratio)


def compressor_pool(pooled, ring_kv, ring_score, kv, score, ape, pos0, ratio):
    n_emit = len(pooled)
    assert n_emit == (pos0 + len(kv)) // ratio - pos0 // ratio, (n_emit, pos0, kv.shape)
    _pool_all(team(), pooled, ring_kv, ring_score, kv, score, ape, pos0, ratio)


def compressor_store(rows, row0, pooled, weight, cos, sin, eps, official):
    if len(pooled):
        store_rows(rows, pooled, weight, cos, sin, row0, eps, official)
