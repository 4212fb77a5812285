"""Rotary position embedding on the trailing dims of a row, adjacent pairs.

Angles come from the caller: cos and sin are float32 arrays of shape (n, n_rot // 2), one row per
row of the call, so `n_rot` is what cos says.
"""

from __future__ import annotations

import numpy as np

from engine.ops.reference.norm import unit_rms


def turned(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """x (n, ..., d) with the pairs (d-n_rot+2i, d-n_rot+2i+1) of each row turned."""
    n, half = cos.shape
    middle = (1,) * (x.ndim - 2)
    cos = cos.astype(np.float64).reshape(n, *middle, half)
    sin = sin.astype(np.float64).reshape(n, *middle, half)
    y = x.astype(np.float64)
    tail = y[..., x.shape[-1] - 2 * half :]
    even, odd = tail[..., 0::2].copy(), tail[..., 1::2].copy()
    tail[..., 0::2] = even * cos - odd * sin
    tail[..., 1::2] = even * sin + odd * cos
    return y


def rope_tail(x, cos, sin, inverse):
    """Turn the last n_rot dims of every head by its row's angles, in place.

    Parameters
    ----------
    x : array of shape (n, n_head, head_dim)
        Changed in place.
    cos, sin : float32 arrays of shape (n, n_rot // 2)
    inverse : bool
        Turn back instead.
    """
    x[...] = turned(x, cos, -sin if inverse else sin)


def q_norm_rope(q, cos, sin, eps):
    """Scale every head to unit root mean square (no weight), then turn its tail; in place.

    Parameters
    ----------
    q : array of shape (n, n_head, head_dim)
        Changed in place.
    cos, sin : float32 arrays of shape (n, n_rot // 2)
    eps : float
    """
    q[...] = turned(unit_rms(q, eps), cos, sin)
