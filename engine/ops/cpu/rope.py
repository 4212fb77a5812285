"""Rotary position embedding on the trailing dims of a row, adjacent pairs."""

from __future__ import annotations

from engine.ops.cpu.norm import NO_WEIGHT, norm_row
from engine.ops.cpu.runtime.jit import inline_kernel, kernel, parallel_kernel, prange

PARALLEL_VALUES = 1 << 15


@inline_kernel
def turn_tail(x, cos, sin, inverse):
    """Turn the last pairs of a row by a row of cos and sin."""
    half = cos.size
    tail = x[x.size - 2 * half :]
    if inverse:
        for k in range(half):
            a, b = tail[2 * k], tail[2 * k + 1]
            tail[2 * k] = a * cos[k] + b * sin[k]
            tail[2 * k + 1] = b * cos[k] - a * sin[k]
    else:
        for k in range(half):
            a, b = tail[2 * k], tail[2 * k + 1]
            tail[2 * k] = a * cos[k] - b * sin[k]
            tail[2 * k + 1] = a * sin[k] + b * cos[k]


@kernel
def _heads(x, cos, sin, inverse, normed, no_weight, eps, first, last):
    """Rows first .. last - 1, all heads."""
    for i in range(first, last):
        for h in range(x.shape[1]):
            head = x[i, h]
            if normed:
                norm_row(head, head, no_weight, eps)
            turn_tail(head, cos[i], sin[i], inverse)


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
