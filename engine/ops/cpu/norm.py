"""Root-mean-square norms."""

from __future__ import annotations

import math

import numpy as np

from engine.ops.cpu import vec
from engine.ops.cpu.jit import inline_kernel, kernel, parallel_kernel, prange

# Below this many values a parallel region costs more than it saves.
PARALLEL_VALUES = 1 << 16
NO_WEIGHT = np.empty(0, np.float32)


@inline_kernel
def sum_squares(x, start, d):
    """Sum of squares of x[start : start + d]: 64 lanes, one tree, then the odd values in order."""
    a = vec.zero()
    b = vec.zero()
    c = vec.zero()
    e = vec.zero()
    whole = d // 64 * 64
    for j in range(start, start + whole, 64):
        v = vec.load(x, j)
        a = vec.fma(v, v, a)
        v = vec.load(x, j + 16)
        b = vec.fma(v, v, b)
        v = vec.load(x, j + 32)
        c = vec.fma(v, v, c)
        v = vec.load(x, j + 48)
        e = vec.fma(v, v, e)
    total = vec.sum_lanes(vec.add(vec.add(a, b), vec.add(c, e)))
    for j in range(start + whole, start + d):
        total += x[j] * x[j]
    return total


@inline_kernel
def rms_scale(x, start, d, eps):
    """Factor that brings x[start : start + d] to unit root mean square."""
    return np.float32(1.0 / math.sqrt(np.float64(sum_squares(x, start, d)) / d + eps))


@inline_kernel
def norm_row(out, to, x, start, d, weight, eps):
    """out[to : to + d] = x[start : start + d], normed; an empty weight means ones."""
    scale = rms_scale(x, start, d, eps)
    if weight.size:
        for j in range(d):
            out[to + j] = x[start + j] * scale * weight[j]
    else:
        for j in range(d):
            out[to + j] = x[start + j] * scale


@kernel
def _serial(out, x, weight, eps):
    n, d = x.shape
    flat_out, flat_x = out.reshape(-1), x.reshape(-1)
    for i in range(n):
        norm_row(flat_out, i * d, flat_x, i * d, d, weight, eps)


@parallel_kernel
def _parallel(out, x, weight, eps):
    n, d = x.shape
    flat_out, flat_x = out.reshape(-1), x.reshape(-1)
    for i in prange(n):
        norm_row(flat_out, i * d, flat_x, i * d, d, weight, eps)


def rms_norm(out, x, weight, eps):
    run = _parallel if x.size >= PARALLEL_VALUES and len(x) > 1 else _serial
    run(out, x, NO_WEIGHT if weight is None else weight, eps)
