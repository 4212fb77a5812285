"""Which experts a token uses, and their weights."""

from __future__ import annotations

import numpy as np

SUM_FLOOR = 6.103515625e-5  # least sum that weights are divided by: float16's least normal


def _affinity(logits: np.ndarray) -> np.ndarray:
    """sqrt(softplus(x)); softplus is x above 20 and e**x below -20."""
    x = logits.astype(np.float64)
    inner = np.log1p(np.exp(np.clip(x, -20, 20)))
    outer = np.where(x > 20, x, np.where(x < -20, np.exp(np.minimum(x, 0)), inner))
    return np.sqrt(outer)


def _weigh(weights, p, ids, scale):
    chosen = np.take_along_axis(p, ids.astype(np.int64), axis=1)
    weights[...] = chosen / np.maximum(chosen.sum(axis=1, keepdims=True), SUM_FLOOR) * scale


def router_select(ids, weights, logits, bias, scale, margin):
    """Take the experts with the greatest p + bias, p = sqrt(softplus(logit)).

    Weights are the chosen experts' p (without bias) over their sum, times scale.

    Parameters
    ----------
    ids : int32 array of shape (n, n_expert_used)
        Overwritten; by descending p + bias, equal ones by ascending id.
    weights : array of shape (n, n_expert_used)
        Overwritten, in the order of ids.
    logits : array of shape (n, n_expert)
    bias : float32 array of shape (n_expert,), or None
    scale : float
    margin : array of shape (n,), or None
        Overwritten: p + bias of the last expert kept minus the first dropped; infinity when none
        is dropped.
    """
    used = ids.shape[1]
    p = _affinity(logits)
    biased = p if bias is None else p + bias
    order = np.argsort(-biased, axis=1, kind="stable")
    ids[...] = order[:, :used]
    _weigh(weights, p, ids, scale)
    if margin is not None:
        if used == logits.shape[1]:
            margin[...] = np.inf
        else:
            edge = np.take_along_axis(biased, order[:, used - 1 : used + 1], axis=1)
            margin[...] = edge[:, 0] - edge[:, 1]


def router_hash(ids, weights, logits, table, tokens, scale):
    """Look the experts up by token id; weights as in `router_select`.

    Parameters
    ----------
    ids : int32 array of shape (n, n_expert_used)
        Overwritten; in the table's order.
    weights : array of shape (n, n_expert_used)
        Overwritten.
    logits : array of shape (n, n_expert)
    table : int32 array of shape (n_vocab, n_expert_used)
    tokens : int32 array of shape (n,)
    scale : float
    """
    ids[...] = table[tokens]
    _weigh(weights, _affinity(logits), ids, scale)
