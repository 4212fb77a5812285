"""Products with weights, over dequantised float64 matrices: for small models only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.quant.registry import dequantize


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight as this set uses it: float64 values of shape (rows, cols) or (n, rows, cols)."""

    name: str
    values: np.ndarray
    repacked_bytes: int = 0


def prepare(tensor, *, activations, repack):
    """Dequantise a file tensor.

    Parameters
    ----------
    tensor : Tensor
    activations : {'int8', 'f32'}
        Not looked at: activations are exact here.
    repack : bool
        Not looked at: there is one representation.

    Returns
    -------
    Weight
        What the products and `embed_hc` take; opaque to callers.
    """
    values = dequantize(tensor.data, tensor.format, tensor.shape)
    return Weight(tensor.name, values.astype(np.float64))


def embed_hc(state, tokens, table):
    """Copy each token's embedding row into every stream.

    Parameters
    ----------
    state : array of shape (n, n_hc, n_embd)
        Overwritten.
    tokens : int32 array of shape (n,)
    table : Weight of shape (n_vocab, n_embd)
    """
    state[...] = table.values[tokens][:, None, :]


def matmul(out, x, w):
    """out = x @ w.T

    Parameters
    ----------
    out : array of shape (n, rows)
        Overwritten; not x.
    x : array of shape (n, cols)
    w : Weight of shape (rows, cols)
    """
    out[...] = x.astype(np.float64) @ w.values.T


def matmul_multi(outs, x, ws):
    """`matmul` of the same x with several weights.

    Parameters
    ----------
    outs : sequence of arrays of shape (n, rows of the weight)
        Overwritten.
    x : array of shape (n, cols)
    ws : sequence of Weight
    """
    for out, w in zip(outs, ws):
        matmul(out, x, w)


def matmul_grouped(out, x, w):
    """Block-diagonal product: group g of x meets rows g*r .. g*r + r - 1 of w.

    Parameters
    ----------
    out : array of shape (n, g, r)
        Overwritten.
    x : array of shape (n, g, cols)
    w : Weight of shape (g * r, cols)
    """
    n_group, rows = out.shape[1:]
    blocks = w.values.reshape(n_group, rows, -1)
    out[...] = np.einsum("ngc,grc->ngr", x.astype(np.float64), blocks)
