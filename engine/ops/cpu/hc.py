"""Hyper-connections: residual streams mixed into one row before a sublayer and back after."""

from __future__ import annotations

import numpy as np

from engine.ops.cpu.runtime.jit import inline_kernel, kernel
from engine.ops.cpu.runtime.over import over
from engine.ops.cpu.runtime.team import team
from engine.ops.cpu.simd.scalar import exp, sigmoid

MAX_STREAMS = 8
SPAN = 512  # columns expanded at a time, so that a copy of every stream stays in the cache
ONE = np.float32(1)
TWO = np.float32(2)


@inline_kernel
def _mix_streams(x, state, weight):
    """x = sum over streams of weight * stream, streams in order."""
    w, stream = weight[0], state[0]
    for j in range(x.size):
        x[j] = w * stream[j]
    for s in range(1, state.shape[0]):
        w, stream = weight[s], state[s]
        for j in range(x.size):
            x[j] += w * stream[j]


@inline_kernel
def _divide_rows(c, n_hc, eps):
    for r in range(n_hc):
        total = c[r, 0]
        for o in range(1, n_hc):
            total += c[r, o]
        total += eps
        for o in range(n_hc):
            c[r, o] /= total


@inline_kernel
def _divide_columns(c, n_hc, eps):
    for o in range(n_hc):
        total = c[0, o]
        for r in range(1, n_hc):
            total += c[r, o]
        total += eps
        for r in range(n_hc):
            c[r, o] /= total


@inline_kernel
def _split_row(x, post, comb, mix, state, scale, base, n_iter, eps, i):
    n_hc = post.shape[1]
    eps = np.float32(eps)
    pre = np.empty(MAX_STREAMS, np.float32)
    for s in range(n_hc):
        pre[s] = sigmoid(mix[i, s] * scale[0] + base[s]) + eps
        post[i, s] = TWO * sigmoid(mix[i, n_hc + s] * scale[1] + base[n_hc + s])
    _mix_streams(x[i], state[i], pre)

    c = comb[i]
    for r in range(n_hc):
        at = 2 * n_hc + r * n_hc
        top = mix[i, at] * scale[2] + base[at]
        for o in range(n_hc):
            c[r, o] = mix[i, at + o] * scale[2] + base[at + o]
            top = c[r, o] if c[r, o] > top else top
        total = np.float32(0)
        for o in range(n_hc):
            c[r, o] = exp(c[r, o] - top)
            total += c[r, o]
        for o in range(n_hc):
            c[r, o] = c[r, o] / total + eps
    _divide_columns(c, n_hc, eps)
    for _ in range(n_iter - 1):
        _divide_rows(c, n_hc, eps)
        _divide_columns(c, n_hc, eps)


@kernel
def _split(x, post, comb, mix, state, scale, base, n_iter, eps, first, last):
    for i in range(first, last):
        _split_row(x, post, comb, mix, state, scale, base, n_iter, eps, i)


@kernel
def _split_all(team, x, post, comb, mix, state, scale, base, n_iter, eps):
    n, n_hc, d = state.shape
    rows = (x, post, comb, mix, state, scale, base, n_iter, eps)
    over(team, n, 2 * n_hc * d, _split, rows)


def hc_split(x, post, comb, mix, state, scale, base, n_iter, eps):
    assert post.shape[1] <= MAX_STREAMS, post.shape
    _split_all(team(), x, post, comb, mix, state, scale, base, n_iter, eps)


@inline_kernel
def _add_scaled(out, w, x):
    for j in range(out.size):
        out[j] += w * x[j]


@inline_kernel
def _scaled(out, w, x):
    for j in range(out.size):
        out[j] = w * x[j]


@inline_kernel
def _expand_row(out, y, post, comb, state, old):
    """One row: out, state (n_hc, n_embd), y (n_embd,), post (n_hc,), comb (n_hc, n_hc)."""
    n_hc, d = state.shape
    for begin in range(0, d, SPAN):
        stop = min(begin + SPAN, d)
        for s in range(n_hc):
            _scaled(old[s, : stop - begin], ONE, state[s, begin:stop])
        for o in range(n_hc):
            part = out[o, begin:stop]
            _scaled(part, post[o], y[begin:stop])
            for s in range(n_hc):
                _add_scaled(part, comb[s, o], old[s])


@kernel
def _expand(out, y, post, comb, state, first, last):
    # out may be state, and every output needs every stream.
    old = np.empty((state.shape[1], SPAN), np.float32)
    for i in range(first, last):
        _expand_row(out[i], y[i], post[i], comb[i], state[i], old)


@kernel
def _expand_all(team, out, y, post, comb, state):
    n, n_hc, d = state.shape
    over(team, n, 2 * n_hc * n_hc * d, _expand, (out, y, post, comb, state))


def hc_expand(out, y, post, comb, state):
    _expand_all(team(), out, y, post, comb, state)


@kernel
def _collapse(x, mix, state, scale, base, eps):
    n, n_hc = mix.shape
    weight = np.empty(MAX_STREAMS, np.float32)
    for i in range(n):
        for s in range(n_hc):
            weight[s] = sigmoid(mix[i, s] * scale[0] + base[s]) + np.float32(eps)
        _mix_streams(x[i], state[i], weight)


def hc_collapse(x, mix, state, scale, base, eps):
    assert mix.shape[1] <= MAX_STREAMS, mix.shape
    _collapse(x, mix, state, scale, base, eps)
