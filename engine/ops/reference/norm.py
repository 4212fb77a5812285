"""Root-mean-square norms."""

from __future__ import annotations

import numpy as np


def unit_rms(x: np.ndarray, eps: float) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)


def rms_norm(out, x, weight, eps):
    """Scale each row of x to unit root mean square, then by weight.

    Parameters
    ----------
    out : array of shape (n, d)
        Overwritten. May be x itself.
    x : array of shape (n, d)
    weight : float32 array of shape (d,), or None
        None means ones.
    eps : float
        Added to the mean square, not to its root.
    """
    y = unit_rms(x, eps)
    out[...] = y if weight is None else y * weight
