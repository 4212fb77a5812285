"""Attention over the raw window and compressed rows; one row is both key and value."""

from __future__ import annotations

import numpy as np


def attend(out, q, ring, rows, sel, n_sel, sinks, pos0, n_swa, ratio):
    """Softmax attention of every head over its visible rows, with one sink logit per head.

    A query at position p sees the raw rows of the last min(n_swa, p + 1) positions, oldest first,
    then compressed rows in ascending order. s = q.k / sqrt(head_dim);
    out = sum exp(s - m) k / (sum exp(s - m) + exp(sink - m)) with m the greatest of all s and
    the sink.

    Parameters
    ----------
    out : array of shape (n, n_head, head_dim)
        Overwritten; not q.
    q : array of shape (n, n_head, head_dim)
    ring : array of shape (cap, head_dim)
        Raw rows, position % cap; holds every row that the call's queries see.
    rows : array of shape (comp_cap, head_dim), or None
        Compressed rows; None when ratio is 0.
    sel : int32 array of shape (n, top_k), or None
        Compressed rows to see, ascending; None means all (p + 1) // ratio of them.
    n_sel : int32 array of shape (n,), or None
        How many of sel count.
    sinks : float32 array of shape (n_head,)
    pos0 : int
    n_swa : int
    ratio : int
        0: raw rows only.
    """
    for i in range(len(q)):
        p = pos0 + i
        positions = np.arange(max(p + 1 - n_swa, 0), p + 1)
        keys = ring[positions % len(ring)].astype(np.float64)
        if ratio:
            chosen = np.arange((p + 1) // ratio) if sel is None else sel[i, : n_sel[i]]
            keys = np.concatenate([keys, rows[chosen].astype(np.float64)])
        s = q[i].astype(np.float64) @ keys.T / np.sqrt(q.shape[2])
        sink = sinks.astype(np.float64)[:, None]
        m = np.maximum(s.max(axis=1, keepdims=True), sink)
        e = np.exp(s - m)
        out[i] = e @ keys / (e.sum(axis=1, keepdims=True) + np.exp(sink - m))
