"""Sinkhorn's iteration and the rotation of rows as chains of torch operations.

`engine.training.fused` computes the same as single CUDA kernels and compares itself with these; the
chains know nothing of it.
"""

from __future__ import annotations

import torch


def sinkhorn_plainly(logits: torch.Tensor, n_iter: int, eps: float) -> torch.Tensor:
    """`sinkhorn` as a chain of operations."""
    # Tokens lie innermost, so that sums over four values read whole cache lines.
    c = logits.t().reshape(4, 4, -1).softmax(1) + eps
    c = c / (c.sum(0, keepdim=True) + eps)
    for _ in range(n_iter - 1):
        c = c / (c.sum(1, keepdim=True) + eps)
        c = c / (c.sum(0, keepdim=True) + eps)
    return c.permute(2, 0, 1)


def turned_plainly(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The rotary turn as a chain of operations; float32."""
    n = 2 * cos.shape[-1]
    x = x.float()
    a, b = x[..., -n:].unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
    return torch.cat([x[..., :-n], turned], -1)
