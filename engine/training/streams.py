"""The four residual streams of hyper-connections: mixing weights, Sinkhorn, collapse and merge."""

from __future__ import annotations

from typing import Any

import torch

from engine.training import fused
from engine.training.plain import sinkhorn_plainly


class _Mix(torch.autograd.Function):
    """Projection of a normed row without keeping the normed row."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, fn: torch.Tensor, eps: float) -> torch.Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        scale = scale.div_(x.shape[1]).add_(eps).rsqrt_()
        y = x @ fn.t()
        ctx.save_for_backward(x, fn, y, scale)
        return y * scale

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        x, fn, y, scale = ctx.saved_tensors
        gs = g * scale
        along = (g * y).sum(-1, keepdim=True) * scale**3 / -x.shape[1]
        return (gs @ fn).addcmul_(x, along), gs.t() @ x, None


def mix(x: torch.Tensor, fn: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS-normed rows times a matrix: (n, k) and (m, k) to (n, m), float32."""
    return _Mix.apply(x, fn, eps)


def sinkhorn(logits: torch.Tensor, n_iter: int, eps: float) -> torch.Tensor:
    """Doubly stochastic matrices.

    Parameters
    ----------
    logits : float32 Tensor of shape (n, 16)
    n_iter : int
        Each divides by sums of rows and of columns, of which the first begins with the softmax.
    eps : float

    Returns
    -------
    float32 Tensor of shape (n, 4, 4)
    """
    if fused.available(logits):
        return fused.sinkhorn(logits, n_iter, eps).view(-1, 4, 4)
    return sinkhorn_plainly(logits, n_iter, eps)


def collapse(x: torch.Tensor, pre: torch.Tensor) -> torch.Tensor:
    """Weighted sum of streams: (n, 4, d) and (n, 4) to (n, d)."""
    return torch.bmm(pre.unsqueeze(1), x).squeeze(1)


def merge(x: torch.Tensor, y: torch.Tensor, post: torch.Tensor, comb: torch.Tensor) -> torch.Tensor:
    """New streams: the old ones mixed by `comb` (summed over its rows) plus `post` times y."""
    mixed = torch.bmm(comb.transpose(1, 2).contiguous(), x)
    return torch.addcmul(mixed, post.unsqueeze(-1), y.float().unsqueeze(1))
