"""Compressed KV rows: `ratio` tokens pooled into one, per dim, by a softmax over their gates.

Rings hold the last positions' projections at row ``position % ring_rows``; scores include ape.
Because they are indexed by position, taking back a few tokens needs no copy.
"""

from __future__ import annotations

import numpy as np

from engine.ops.reference.kv import finished_row


def compressor_pool(pooled, ring_kv, ring_score, kv, score, ape, pos0, ratio):
    """Pool every window that ends within this call, then remember the call's last positions.

    Window w covers positions w*ratio .. w*ratio + ratio - 1 and is pooled when its last position
    is in the call. Each output dim takes a softmax over its candidates' scores and sums their kv:
    the window's own rows and, for ratio 4, also the rows of the window before (if there is one).
    For ratio 4 a row has two halves; the earlier window gives its first half, the window itself
    its second.

    Parameters
    ----------
    pooled : array of shape (n_emit, d)
        Overwritten; n_emit = (pos0 + n) // ratio - pos0 // ratio.
    ring_kv, ring_score : arrays of shape (ring_rows, W)
        W = 2*d for ratio 4, else d. ring_rows covers the candidates (2*ratio rows for ratio 4,
        ratio otherwise) and as many rows more as a caller may take back.
    kv, score : arrays of shape (n, W)
        Raw projections of the rows of this call.
    ape : float32 array of shape (ratio, W)
        Added to the score of the position with this remainder.
    pos0 : int
    ratio : int
    """
    n, rows = len(kv), len(ring_kv)
    d = pooled.shape[1]
    positions = pos0 + np.arange(n)
    own_kv = kv.astype(np.float64)
    own_score = score.astype(np.float64) + ape[positions % ratio]

    def row(position):
        if position < pos0:
            at = position % rows
            return ring_kv[at].astype(np.float64), ring_score[at].astype(np.float64)
        return own_kv[position - pos0], own_score[position - pos0]

    first = pos0 // ratio
    for i in range((pos0 + n) // ratio - first):
        start = (first + i) * ratio
        values, scores = [], []
        if ratio == 4 and start:
            for position in range(start - 4, start):
                v, s = row(position)
                values.append(v[:d])
                scores.append(s[:d])
        for position in range(start, start + ratio):
            v, s = row(position)
            values.append(v[-d:])
            scores.append(s[-d:])
        s = np.array(scores)
        e = np.exp(s - s.max(axis=0))
        pooled[i] = (e * np.array(values)).sum(axis=0) / e.sum(axis=0)

    kept = positions[max(n - rows, 0) :]
    ring_kv[kept % rows] = own_kv[kept - pos0]
    ring_score[kept % rows] = own_score[kept - pos0]


def compressor_store(rows, row0, pooled, weight, cos, sin, eps, official):
    """Finish pooled rows as `kv_store` does and write them to rows[row0 : row0 + n_emit].

    Parameters
    ----------
    rows : array of shape (cap, head_dim)
    row0 : int
    pooled : array of shape (n_emit, head_dim)
    weight : float32 array of shape (head_dim,)
    cos, sin : float32 arrays of shape (n_emit, n_rot // 2)
        Angles of the first position of each row's own window.
    eps : float
    official : bool
    """
    if len(pooled):
        rows[row0 : row0 + len(pooled)] = finished_row(pooled, weight, cos, sin, eps, official)
