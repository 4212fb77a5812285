"""Root-mean-square norms."""

from __future__ import annotations

import math

import numpy as np

from engine.ops.cpu.runtime.jit import inline_kernel, kernel
from engine.ops.cpu.runtime.over import over
from engine.ops.cpu.runtime.team import team
from engine.ops.cpu.simd import vec

NO_WEIGHT = np.empty(0, np.float32)


@inline_kernel
def sum_squares(x):
    """Sum of squares of a row: 64 lanes, one tree, then the odd values in order."""
    a = vec.zero()
    b = vec.zero()
    c = vec.zero()
    e = vec.zero()
    whole = x.size // 64 * 64
    for j in range(0, whole, 64):
        v = vec.load(x, j)
        a = vec.fma(v, v, a)
        v = vec.load(x, j + 16)
        b = vec.fma(v, v, b)
        v = vec.load(x, j + 32)
        c = vec.fma(v, v, c)
        v = vec.load(x, j + 48)
        e = vec.fma(v, v, e)
    total = vec.sum_lanes(vec.add(vec.add(a, b), vec.add(c, e)))
    for j in range(whole, x.size):
        total += x[j] * x[j]
    return total


@inline_kernel
def norm_row(out, x, weight, eps):
    """One row of `rms_norm`; an empty weight means ones. out may be x."""
    # Once per row, so double costs nothing.
    scale = np.float32(1.0 / math.sqrt(np.float64(sum_squares(x)) / x.size + eps))
    if weight.size:
        for j in range(x.size):
            out[j] = x[j] * scale * weight[j]
    else:
        for j in range(x.size):
            out[j] = x[j] * scale


@kernel
def _rows(out, x, weight, eps, first, last):
    for i in range(first, last):
        norm_row(out[i], x[i], weight, eps)


@kernel
def _all(team, out, x, weight, eps):
    over(team, x.shape[0], 2 * x.shape[1], _rows, (out, x, weight, eps))


def rms_norm(out, x, weight, eps):
    weight = NO_WEIGHT if weight is None else weight
    _all(team(), out, x, weight, eps)
