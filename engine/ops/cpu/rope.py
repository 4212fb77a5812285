"""Rotary position embedding on the trailing dims of a row, adjacent pairs."""

from __future__ import annotations

from engine.ops.cpu.norm import NO_WEIGHT, norm_row
from engine.ops.cpu.runtime.jit import inline_kernel, kernel
from engine.ops.cpu.runtime.over import over
from engine.ops.cpu.runtime.team import team

VALUE_COST = 4  # multiply-adds that turning a value is worth


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


@kernel
def _all(team, x, cos, sin, inverse, normed, no_weight, eps):
    n, n_head, d = x.shape
    rows = (x, cos, sin, inverse, normed, no_weight, eps)
    over(team, n, VALUE_COST * n_head * d, _heads, rows)


def rope_tail(x, cos, sin, inverse):
    _all(team(), x, cos, sin, inverse, False, NO_WEIGHT, 0.0)


def q_norm_rope(q, cos, sin, eps):
    _all(team(), q, cos, sin, False, True, NO_WEIGHT, eps)
