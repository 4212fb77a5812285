"""What the nano model is trained on: next token, the draft block's guess, the indexer's choice."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from engine.nano.corpus import PADDING
from engine.training.net import Net

# Weight of predicting a token, by its class in `corpus.rows`: prompt, completion, prose, recall.
CLASSES = ("prompt", "completion", "prose", "recall")
_WEIGHTS = (0.1, 1.0, 0.3, 1.0)
DRAFT_WEIGHT = 0.3
# Figures that `training_loss` adds up, in order.
FIGURES = (
    *(f"trunk_{c}" for c in CLASSES),
    *(f"draft_{c}" for c in CLASSES),
    "index",
)


def class_weights(device: torch.device) -> torch.Tensor:
    """Weight per class number 0 to 255; unknown classes and padding weigh nothing."""
    table = torch.zeros(PADDING + 1, device=device)
    table[: len(_WEIGHTS)] = torch.tensor(_WEIGHTS, device=device)
    return table


def training_loss(
    net: Net,
    ids: torch.Tensor,
    cls: torch.Tensor,
    doc: torch.Tensor,
    index: int,
    table: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of one batch.

    Parameters
    ----------
    ids, cls, doc : int64 Tensors of shape (n_row, n_col)
    index : {0, 1, 2}
        See `Net.geometry`.
    table : Tensor of shape (256,)
        From `class_weights`.

    Returns
    -------
    loss : Tensor of shape ()
    figures : float32 Tensor of shape (len(FIGURES), 2)
        Sums in nats and counts of tokens, without gradient; the indexer's count is 1.
    """
    geometry = net.geometry(doc, index)
    x = net.trunk(ids, geometry)
    loss, figures = _guess(net.logits(x), ids, cls, doc, 1, table)
    draft, more = _guess(net.draft(x, ids, geometry), ids, cls, doc, 2, table)
    loss = loss + DRAFT_WEIGHT * draft
    kl = loss.new_zeros(())
    if net.index_losses:
        kl = torch.stack(net.index_losses).mean()
        loss = loss + kl
    last = torch.stack([kl.detach(), torch.ones_like(kl)]).unsqueeze(0)
    return loss, torch.cat([figures, more, last])


def _guess(
    logits: torch.Tensor,
    ids: torch.Tensor,
    cls: torch.Tensor,
    doc: torch.Tensor,
    ahead: int,
    table: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted mean cross-entropy of tokens `ahead` of their rows, and sums per class."""
    target = F.pad(ids[:, ahead:], (0, ahead))
    kind = F.pad(cls[:, ahead:], (0, ahead), value=PADDING)
    same = F.pad(doc[:, ahead:], (0, ahead), value=-1) == doc
    each = F.cross_entropy(logits, target.flatten(), reduction="none")
    weight = (table[kind] * same).flatten()
    loss = (each * weight).sum() / (weight.sum() + 1e-6)
    numbers = torch.arange(len(CLASSES), device=ids.device)
    member = ((kind.flatten() == numbers[:, None]) & same.flatten()).float()
    return loss, torch.stack([member @ each.detach(), member.sum(1)], 1)


@torch.no_grad()
def balance(net: Net, rate: torch.Tensor) -> None:
    """Move routing biases towards equal use of experts (DeepSeek V3, section 2.1.2).

    Parameters
    ----------
    rate : Tensor of shape ()
        Learning rate relative to the full one.
    """
    for prefix, load in net.loads.items():
        bias = net.w[f"{prefix}exp_probs_b.bias"]
        part = load.float() - load.float().mean()
        bias.sub_(part.sign() * (0.002 * (2 * rate).clamp(max=1.0)))
