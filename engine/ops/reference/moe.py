"""Gated feed-forward: the activation and the routed experts."""

from __future__ import annotations

import numpy as np

NO_LIMIT = 1e-6  # a clamp at or below this is no clamp


def _gated(gate: np.ndarray, up: np.ndarray, limit: float) -> np.ndarray:
    gate, up = gate.astype(np.float64), up.astype(np.float64)
    if limit > NO_LIMIT:
        gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
    return gate * 0.5 * (1 + np.tanh(0.5 * gate)) * up


def swiglu(out, gate, up, limit):
    """silu(gate) * up, gate clamped above and up on both sides.

    Parameters
    ----------
    out : array of shape (n, n_ff)
        Overwritten. May be gate or up.
    gate, up : arrays of shape (n, n_ff)
    limit : float
        At most 1e-6 means no clamp.
    """
    out[...] = _gated(gate, up, limit)


def routed_moe(out, x, ids, weights, gate, up, down, limit):
    """Sum over the chosen experts of down_e @ (swiglu(gate_e @ x, up_e @ x) * weight).

    Parameters
    ----------
    out : array of shape (n, n_embd)
        Overwritten; not x.
    x : array of shape (n, n_embd)
    ids : int32 array of shape (n, n_expert_used)
    weights : array of shape (n, n_expert_used)
    gate, up : Weight of shape (n_expert, n_ff, n_embd)
    down : Weight of shape (n_expert, n_embd, n_ff)
    limit : float
        Clamp of `swiglu`.
    """
    for i in range(len(x)):
        row = x[i].astype(np.float64)
        total = np.zeros(out.shape[1])
        for expert, weight in zip(ids[i], weights[i]):
            mid = _gated(gate.values[expert] @ row, up.values[expert] @ row, limit) * weight
            total += down.values[expert] @ mid
        out[i] = total


def shared_ffn(out, x, gate, up, down, limit):
    """down @ swiglu(gate @ x, up @ x): the shared expert.

    Parameters
    ----------
    out : array of shape (n, n_embd)
        Overwritten; not x.
    x : array of shape (n, n_embd)
    gate, up : Weight of shape (n_ff, n_embd)
    down : Weight of shape (n_embd, n_ff)
    limit : float
        Clamp of `swiglu`.
    """
    x = x.astype(np.float64)
    out[...] = _gated(x @ gate.values.T, x @ up.values.T, limit) @ down.values.T


def add(out, x):
    """out += x, arrays of one shape."""
    out += x
