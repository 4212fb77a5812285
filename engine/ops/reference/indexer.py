"""The indexer: which compressed rows a query attends to, by small scores of their own."""

from __future__ import annotations

import numpy as np

from engine.errors import SnapshotError
from engine.ops.reference.norm import unit_rms
from engine.ops.reference.rope import turned
from engine.ops.reference.rounding import fp4_round_trip, hadamard


class IndexRows:
    """Indexer rows of one layer; each kernel set stores them as suits it.

    Parameters
    ----------
    cap : int
        Most rows.
    dim : int
    official : bool
        Rows are FP4 values (blocks of 32 with a power-of-two scale).
    """

    def __init__(self, cap: int, dim: int, official: bool) -> None:
        self.official = official
        self.rows = np.zeros((cap, dim))

    @property
    def n_bytes(self) -> int:
        """Bytes that all rows take once written."""
        return self.rows.nbytes

    def export(self, n: int) -> np.ndarray:
        """The first n rows, float32 (n, dim)."""
        return self.rows[:n].astype(np.float32)

    def load(self, values: np.ndarray) -> None:
        """Replace the first rows by exported ones.

        Raises
        ------
        SnapshotError
            If this storage cannot hold the values exactly.
        """
        values = np.asarray(values, np.float64)
        if self.official and not np.array_equal(fp4_round_trip(values), values, equal_nan=True):
            raise SnapshotError("indexer rows: expected FP4 values, found others")
        self.rows[: len(values)] = values


def new_index_rows(cap, dim, official):
    """Storage for up to cap indexer rows of `dim` values, FP4 if official (see `IndexRows`)."""
    return IndexRows(cap, dim, official)


def indexer_store(rows, row0, pooled, weight, cos, sin, eps, official):
    """Norm pooled rows, turn their tails and, if official, Hadamard and FP4; then store them.

    Parameters
    ----------
    rows : IndexRows
        Rows row0 .. row0 + n_emit - 1 are overwritten.
    row0 : int
    pooled : array of shape (n_emit, idx_head_dim)
    weight : float32 array of shape (idx_head_dim,)
    cos, sin : float32 arrays of shape (n_emit, n_rot // 2)
        Angles of the first position of each row's window.
    eps : float
    official : bool
        As given to `new_index_rows`.
    """
    assert official == rows.official
    if not len(pooled):
        return
    y = turned(unit_rms(pooled, eps) * weight, cos, sin)
    rows.rows[row0 : row0 + len(pooled)] = fp4_round_trip(hadamard(y)) if official else y


def indexer_query(q, cos, sin, official):
    """Turn the tails of the indexer's queries and, if official, Hadamard and FP4; in place.

    Parameters
    ----------
    q : array of shape (n, n_idx_head, idx_head_dim)
        Changed in place.
    cos, sin : float32 arrays of shape (n, n_rot // 2)
    official : bool
    """
    y = turned(q, cos, sin)
    q[...] = fp4_round_trip(hadamard(y)) if official else y


def indexer_select(sel, n_sel, q, head_w, rows, pos0, ratio, margin):
    """Choose the compressed rows that each query attends to, ascending.

    Query i sees (pos0 + i + 1) // ratio rows. Up to top_k of them: all. More: the top_k of
    score(c) = sum_h relu(q_h . k_c) * head_w_h / sqrt(idx_head_dim * n_idx_head), equal scores
    going to the lower row.

    Parameters
    ----------
    sel : int32 array of shape (n, top_k)
        Overwritten up to n_sel; the rest is unspecified.
    n_sel : int32 array of shape (n,)
        Overwritten.
    q : array of shape (n, n_idx_head, idx_head_dim), or None
        As `indexer_query` left it; None if no query sees more than top_k rows.
    head_w : array of shape (n, n_idx_head), or None
        Raw projection; None together with q.
    rows : IndexRows
    pos0 : int
    ratio : int
    margin : array of shape (n,), or None
        Overwritten: score of the last row kept minus that of the first dropped; infinity when
        nothing is dropped.
    """
    n, top_k = sel.shape
    for i in range(n):
        visible = (pos0 + i + 1) // ratio
        n_sel[i] = kept = min(visible, top_k)
        gap = np.inf
        if visible <= top_k:
            sel[i, :kept] = np.arange(kept)
        else:
            n_head, dim = q.shape[1:]
            dots = q[i].astype(np.float64) @ rows.rows[:visible].T
            weight = head_w[i].astype(np.float64) / np.sqrt(dim * n_head)
            score = weight @ np.maximum(dots, 0)
            order = np.argsort(-score, kind="stable")
            sel[i, :kept] = np.sort(order[:kept])
            gap = score[order[kept - 1]] - score[order[kept]]
        if margin is not None:
            margin[i] = gap
