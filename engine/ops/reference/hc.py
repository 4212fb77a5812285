"""Hyper-connections: n_hc residual streams mixed into one row before a sublayer and back after.

Source: mHC (Xie et al., 2025) as in the DeepSeek V4 inference code. `mix` holds, in this order,
n_hc logits of `pre`, n_hc of `post` and n_hc * n_hc of `comb` (row = source stream, column =
destination), i.e. fn @ (state / rms(state)) over the flattened state.
"""

from __future__ import annotations

import numpy as np


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def hc_split(x, post, comb, mix, state, scale, base, n_iter, eps):
    """Mix the streams into a sublayer's input; work out how its output is spread.

    pre = sigmoid(mix*scale[0] + base) + eps, post = 2*sigmoid(mix*scale[1] + base),
    comb = softmax over each row of (mix*scale[2] + base), + eps, then columns divided by their
    sum + eps, then n_iter - 1 rounds of rows and columns likewise (Sinkhorn-Knopp).

    Parameters
    ----------
    x : array of shape (n, n_embd)
        Overwritten: sum over streams of pre * state.
    post : array of shape (n, n_hc)
        Overwritten.
    comb : array of shape (n, n_hc, n_hc)
        Overwritten; [source, destination].
    mix : array of shape (n, n_hc * (2 + n_hc))
    state : array of shape (n, n_hc, n_embd)
    scale : float32 array of shape (3,)
    base : float32 array of shape (n_hc * (2 + n_hc),)
    n_iter : int
        Column passes, at least 1.
    eps : float
    """
    n, n_hc = post.shape
    mix = mix.astype(np.float64)
    scale, base = scale.astype(np.float64), base.astype(np.float64)
    pre = _sigmoid(mix[:, :n_hc] * scale[0] + base[:n_hc]) + eps
    post[...] = 2 * _sigmoid(mix[:, n_hc : 2 * n_hc] * scale[1] + base[n_hc : 2 * n_hc])
    c = (mix[:, 2 * n_hc :] * scale[2] + base[2 * n_hc :]).reshape(n, n_hc, n_hc)
    c = np.exp(c - c.max(axis=2, keepdims=True))
    c = c / c.sum(axis=2, keepdims=True) + eps
    c = c / (c.sum(axis=1, keepdims=True) + eps)
    for _ in range(n_iter - 1):
        c = c / (c.sum(axis=2, keepdims=True) + eps)
        c = c / (c.sum(axis=1, keepdims=True) + eps)
    comb[...] = c
    x[...] = np.einsum("ns,nsd->nd", pre, state.astype(np.float64))


def hc_expand(out, y, post, comb, state):
    """Spread a sublayer's output over the streams: out[o] = y*post[o] + sum_s comb[s, o]*state[s].

    Parameters
    ----------
    out : array of shape (n, n_hc, n_embd)
        Overwritten. May be state itself.
    y : array of shape (n, n_embd)
    post : array of shape (n, n_hc)
    comb : array of shape (n, n_hc, n_hc)
        [source, destination].
    state : array of shape (n, n_hc, n_embd)
    """
    y, post, comb = (a.astype(np.float64) for a in (y, post, comb))
    old = state.astype(np.float64)
    out[...] = post[:, :, None] * y[:, None, :] + np.einsum("nso,nsd->nod", comb, old)


def hc_collapse(x, mix, state, scale, base, eps):
    """Mix the streams into the output head's input: weights sigmoid(mix*scale + base) + eps.

    Parameters
    ----------
    x : array of shape (n, n_embd)
        Overwritten.
    mix : array of shape (n, n_hc)
    state : array of shape (n, n_hc, n_embd)
    scale : float32 array of shape (1,)
    base : float32 array of shape (n_hc,)
    eps : float
    """
    weight = _sigmoid(mix.astype(np.float64) * np.float64(scale[0]) + base) + eps
    x[...] = np.einsum("ns,nsd->nd", weight, state.astype(np.float64))


def ring_mean(out, ring, pos0):
    """Mean over the streams of rows by position.

    Parameters
    ----------
    out : array of shape (n, n_embd)
        Overwritten: row i from position pos0 + i.
    ring : array of shape (cap, n_hc, n_embd)
        Rows by position % cap.
    pos0 : int
    """
    positions = np.arange(pos0, pos0 + len(out)) % len(ring)
    out[...] = ring[positions].astype(np.float64).mean(axis=1)
