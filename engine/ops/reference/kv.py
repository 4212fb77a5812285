"""The raw KV ring: one row per position, which serves as key and as value."""

from __future__ import annotations

import numpy as np

from engine.ops.reference.norm import unit_rms
from engine.ops.reference.rope import turned
from engine.ops.reference.rounding import f16_round_trip, fp8_round_trip


def finished_row(x, weight, cos, sin, eps, official) -> np.ndarray:
    """Norm, tail turn and, if official, FP8 on the dims before the tail, then float16 on all."""
    y = turned(unit_rms(x, eps) * weight, cos, sin)
    if official:
        n_nope = y.shape[-1] - 2 * cos.shape[-1]
        y[..., :n_nope] = fp8_round_trip(y[..., :n_nope])
        y = f16_round_trip(y)
    return y


def kv_store(ring, kv, weight, cos, sin, pos0, eps, official):
    """Finish the projected rows and store them at their positions.

    Parameters
    ----------
    ring : array of shape (cap, head_dim)
        Row ``position % cap`` is overwritten for each row of the call; n <= cap.
    kv : array of shape (n, head_dim)
        Raw projection.
    weight : float32 array of shape (head_dim,)
        Of the norm.
    cos, sin : float32 arrays of shape (n, n_rot // 2)
        Angles of the rows' own positions.
    pos0 : int
    eps : float
    official : bool
        FP8 round trip of the first head_dim - n_rot dims (a multiple of 64), then every value
        rounded to float16.
    """
    rows = (pos0 + np.arange(len(kv))) % len(ring)
    ring[rows] = finished_row(kv, weight, cos, sin, eps, official)
