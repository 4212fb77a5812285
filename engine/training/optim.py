"""Optimiser of the nano model: Muon for matrices, AdamW for the rest, both on flat memory.

Weights of one block shape lie side by side in one buffer and their gradients in another, so that
an update is a handful of operations whatever the number of weights, and nothing is allocated or
copied to the host: a step can be recorded as a CUDA graph. Muon is by Jordan et al. (2024,
https://kellerjordan.github.io/posts/muon/), its scaling to AdamW's update size by Liu et al.
(arXiv:2502.16982); the polynomial's coefficients change per iteration as in arXiv:2505.16932.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from engine.models.make import Spec
from engine.shape import Shape

_NS_STEPS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
_BETAS = 0.9, 0.97
_EPS = 1e-8
_WEIGHT_DECAY = 0.02
_CLIP = 5.0
# Vectors and hyper-connections act on everything behind them.
_VECTOR_RATE = 0.6
# Kinds that are no maps between activations of similar size, or whose rows are looked up.
_ADAM_KINDS = ("embed", "output", "hc", "ape", "router", "vector", "markov", "confidence")
MUON_RATE, ADAM_RATE = 4e-3, 3e-3
_MOMENTUM_FIRST, _MOMENTUM_LAST, _MOMENTUM_STEPS = 0.85, 0.95, 300


@dataclass
class _Bank:
    """Flat memory of many weights."""

    block: tuple[int, int] | None  # rows and columns that Muon takes together; None: AdamW
    rate: float
    value: torch.Tensor
    grad: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor | None


def block_shape(spec: Spec, shape: Shape) -> tuple[int, int] | None:
    """Rows and columns of the independent matrices inside a tensor; None where AdamW serves.

    Heads, output groups and experts are matrices of their own; other tall ones are cut into
    square blocks.
    """
    if spec.kind in _ADAM_KINDS or spec.name.endswith("indexer.proj.weight"):
        return None
    rows, cols = spec.shape[-2:]
    if spec.name.endswith("attn_output_a.weight"):
        return shape.n_lora_o, cols
    if len(spec.shape) == 2 and rows > cols and rows % cols == 0:
        return cols, cols
    return rows, cols


class Optimizer:
    """Holds the weights' memory and updates it from the gradients that `backward` left.

    Parameters
    ----------
    weights : dict of str to Tensor
        Trainable entries are replaced by leaf tensors on `device` that require gradients, others
        (hash tables, routing biases) are moved.
    specs : list of Spec
    shape : Shape
    device : torch.device
    """

    def __init__(
        self,
        weights: dict[str, torch.Tensor],
        specs: list[Spec],
        shape: Shape,
        device: torch.device,
    ) -> None:
        groups: dict[tuple[tuple[int, int] | None, float], list[str]] = {}
        for spec in specs:
            if spec.rule == "hash" or spec.name.endswith("exp_probs_b.bias"):
                weights[spec.name] = weights[spec.name].to(device)
                continue
            slow = spec.kind in ("vector", "hc")
            key = block_shape(spec, shape), _VECTOR_RATE if slow else 1.0
            groups.setdefault(key, []).append(spec.name)
        self.banks = [
            self._bank(weights, names, block, rate, device)
            for (block, rate), names in groups.items()
        ]
        # Written before a step and read by it on the device, so that a recorded step follows.
        self.rate = torch.zeros((), device=device)
        self.momentum = torch.zeros((), device=device)
        self.n_steps = torch.zeros((), device=device)
        self.grad_norm = torch.zeros((), device=device)

    @staticmethod
    def _bank(
        weights: dict[str, torch.Tensor],
        names: list[str],
        block: tuple[int, int] | None,
        rate: float,
        device: torch.device,
    ) -> _Bank:
        value = torch.cat([weights[n].flatten() for n in names]).to(device)
        grad = torch.zeros_like(value)
        start = 0
        for name in names:
            shape, n = weights[name].shape, weights[name].numel()
            leaf = value[start : start + n].view(shape).detach().requires_grad_()
            leaf.grad = grad[start : start + n].view(shape)
            weights[name] = leaf
            start += n
        second = torch.zeros_like(value) if block is None else None
        return _Bank(block, rate, value, grad, torch.zeros_like(value), second)

    def set_step(self, step: int, rate: float) -> None:
        """Say what the next step is: its number from 0, and its rate relative to the full one."""
        part = min(1.0, step / _MOMENTUM_STEPS)
        self.momentum.fill_(_MOMENTUM_FIRST + (_MOMENTUM_LAST - _MOMENTUM_FIRST) * part)
        self.rate.fill_(rate)
        self.n_steps.fill_(step + 1.0)

    def zero_grad(self) -> None:
        """Set all gradients to 0, in place."""
        for bank in self.banks:
            bank.grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """Update every weight; a step whose gradient is not finite changes nothing but momenta."""
        norms = torch.stack([torch.linalg.vector_norm(b.grad) for b in self.banks])
        self.grad_norm.copy_(torch.linalg.vector_norm(norms))
        factor = (_CLIP / (self.grad_norm + 1e-6)).clamp(max=1.0).nan_to_num(0.0)
        rate = self.rate * torch.isfinite(self.grad_norm)
        for bank in self.banks:
            # 0 times nan is nan, so what is not finite goes first.
            bank.grad.nan_to_num_(0.0, 0.0, 0.0).mul_(factor)
            if bank.block is None:
                self._adam(bank, rate)
            else:
                self._muon(bank, rate)

    def _adam(self, bank: _Bank, rate: torch.Tensor) -> None:
        assert bank.second is not None
        first, second = _BETAS
        bank.first.lerp_(bank.grad, 1 - first)
        bank.second.mul_(second).addcmul_(bank.grad, bank.grad, value=1 - second)
        # Powers by the exponential, which needs no number from the host.
        missing_first = -torch.expm1(self.n_steps * math.log(first))
        missing_second = -torch.expm1(self.n_steps * math.log(second))
        root = (bank.second / missing_second).sqrt_().add_(_EPS)
        update = (bank.first / missing_first).div_(root)
        bank.value.sub_(update.mul_(rate * (ADAM_RATE * bank.rate)))

    def _muon(self, bank: _Bank, rate: torch.Tensor) -> None:
        assert bank.block is not None
        rows, cols = bank.block
        bank.first.lerp_(bank.grad, 1 - self.momentum)
        update = torch.lerp(bank.grad, bank.first, self.momentum)
        update = _orthogonal(update.view(-1, rows, cols)).flatten()
        scaled = rate * MUON_RATE
        bank.value.mul_(1 - scaled * _WEIGHT_DECAY)
        bank.value.sub_(update.mul_(scaled * (0.2 * max(rows, cols) ** 0.5)))

    def state(self) -> list[dict[str, torch.Tensor]]:
        """Momenta of all banks, for a checkpoint; copies on the CPU."""
        return [
            {k: v.cpu() for k, v in (("first", b.first), ("second", b.second)) if v is not None}
            for b in self.banks
        ]

    def load_state(self, state: list[dict[str, torch.Tensor]]) -> None:
        """Take back what `state` gave for a model of the same shape."""
        for bank, saved in zip(self.banks, state, strict=True):
            bank.first.copy_(saved["first"])
            if bank.second is not None:
                bank.second.copy_(saved["second"])


def _orthogonal(x: torch.Tensor) -> torch.Tensor:
    """Nearest matrices with equal singular values, roughly: (n, r, c) float32 to the same."""
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + 1e-7)
    # Many processors multiply bfloat16 a hundred times slower than float32.
    x = x.bfloat16() if x.is_cuda else x
    for a, b, c in _NS_STEPS:
        gram = torch.bmm(x, x.transpose(1, 2))
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, poly, x, beta=a, alpha=1)
    return (x.transpose(1, 2) if tall else x).float().contiguous()
