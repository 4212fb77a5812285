"""Rotary position embedding on the trailing dims of a row, adjacent pairs."""

from __future__ import annotations

from engine.ops.cpu.jit import inline_kernel, kernel, parallel_kernel, prange
from engine.ops.cpu.norm import NO_WEIGHT, norm_row

PARALLEL_VALUES = 1 << 15


@inline_kernel
def turn_tail(x, stop, cos, sin, row, inverse):
    """Turn the pairs that end at x[stop] by the angles of a row of cos and sin."""
    half = cos.shape[1]
    start = stop - 2 * half
    if inverse:
        for k in range(half):
            a, b = x[start + 2 * k], x[start + 2 * k + 1]
            c, s = cos[row, k], -sin[row, k]
            x[start + 2 * k] = a * c - b * s
            x[start + 2 * k + 1] = a * s + b * c
    else:
        for k in range(half):
            a, b = x[start + 2 * k], x[start + 2 * k + 1]
            c, s = cos[row, k], sin[row, k]
            x[start + 2 * k] = a * c - b * s
            x[start + 2 * k + 1] = a * s + b * c


@kernel
def _heads(x, cos, sin, inverse, normed, no_weight, eps, first, last):
    """Rows first .. last - 1, all heads."""
    n_head, d = x.shape[1:]
    flat = x.reshape(-1)
    for i in range(first, last):
        for h in range(n_head):
            start = (i * n_head + h) * d
            if normed:
                norm_row(flat, start, flat, start, d, no_weight, eps)
            turn_tail(flat, start + d, cos, sin, i, inverse)


@parallel_kernel
def _parallel(x, cos, sin, inverse, normed, no_weight, eps):
    for i in prange(x.shape[0]):
        _heads(x, cos, sin, inverse, normed, no_weight, eps, i, i + 1)


def _run(x, cos, sin, inverse, normed, eps):
    n = len(x)
    if n > 1 and x.size >= PARALLEL_VALUES:
        _parallel(x, cos, sin, inverse, normed, NO_WEIGHT, eps)
    else:
        _heads(x, cos, sin, inverse, normed, NO_WEIGHT, eps, 0, n)


def rope_tail(x, cos, sin, inverse):
    _run(x, cos, sin, inverse, False, 0.0)


def q_norm_rope(q, cos, sin, eps):
    _run(q, cos, sin, False, True, eps)
