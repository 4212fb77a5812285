"""What a DSpark drafter is trained on, and the figures that say how good it is.

The loss is the released drafter's (arXiv:2607.05147, section 3): a tenth of cross-entropy with the
true token, nine tenths of the L1 distance between the drafter's distribution and the trunk's, and
binary cross-entropy of the confidence with 1 - TV, the chance that the rule of rejection keeps a
draft. Slots weigh exp(-i / 4). The Markov head sees the true tokens before each slot.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from engine.training.attention import CHUNK
from engine.training.dspark.net import DsparkNet
from engine.training.losses import class_weights

_CE, _L1, _CONFIDENCE = 0.1, 0.9, 1.0
_DECAY = 4.0  # slots after which a slot's weight has fallen to 1/e
N_BIN = 10


@dataclass
class Slots:
    """What every slot of some blocks guessed, without gradient.

    Parameters
    ----------
    agree : bool Tensor of shape (n, block)
        Whether the drafter's likeliest token is the trunk's, after true tokens.
    kept : float32 Tensor of shape (n, block)
        1 - TV: the chance that a draft is kept.
    confidence : float32 Tensor of shape (n, block)
        What the drafter believes of that.
    on_path : bool Tensor of shape (n,)
        Whether the text itself is what the trunk finds likeliest at every slot.
    kind : int64 Tensor of shape (n,)
        Class of the first slot's token (see `engine.training.losses.CLASSES`).
    """

    agree: torch.Tensor
    kept: torch.Tensor
    confidence: torch.Tensor
    on_path: torch.Tensor
    kind: torch.Tensor


def draw_anchors(n_row: int, n_col: int, every: int, block: int, seed: int) -> torch.Tensor:
    """One anchor in every `every` positions, at random within them.

    Returns
    -------
    int64 Tensor of shape (n_row, n_col / CHUNK, CHUNK / every)
    """
    rng = torch.Generator().manual_seed(seed)
    base = torch.arange(0, n_col, every)
    at = base + torch.randint(0, every, (n_row, len(base)), generator=rng)
    # The last blocks of a row would reach beyond it.
    at = torch.minimum(at, torch.tensor(n_col - block - 2))
    at = torch.maximum(at, base // CHUNK * CHUNK)
    return at.view(n_row, n_col // CHUNK, CHUNK // every)


def dspark_loss(
    net: DsparkNet,
    taps: torch.Tensor,
    logits: torch.Tensor,
    batch: torch.Tensor,
    anchors: torch.Tensor,
) -> tuple[torch.Tensor, Slots]:
    """Loss of one batch, and what its slots did.

    Parameters
    ----------
    net : DsparkNet
    taps, logits : Tensors
        As `TappedTrunk.tapped` gives them.
    batch : int64 Tensor of shape (3, n_row, n_col)
        Token ids, classes, documents.
    anchors : int64 Tensor of shape (n_row, n_chunk, k)
    """
    ids, cls, doc = batch
    width = net.spark.block
    hidden, base = net.block(taps, ids, doc, anchors)
    slots = torch.arange(width)
    row = torch.arange(len(ids))[:, None]
    before = anchors.flatten(1).unsqueeze(-1) + 1 + slots  # (n_row, k, block)
    at = row[..., None], before
    after = row[..., None], before + 1
    target = logits[at].softmax(-1).flatten(0, 1)
    previous, following = ids[at].flatten(0, 1), ids[after].flatten(0, 1)
    kind = cls[after].flatten(0, 1)
    inside = (doc[after] == doc[row, anchors.flatten(1)].unsqueeze(-1)).flatten(0, 1)
    bias, embedding = net.markov(previous)
    scores = base.view(bias.shape) + bias
    drafted = scores.softmax(-1)
    distance = (drafted - target).abs().sum(-1)
    kept = (1 - 0.5 * distance.detach()).clamp(0, 1)
    right = F.cross_entropy(scores.flatten(0, 1), following.flatten(), reduction="none")
    sure = net.confidence(hidden.view(*kept.shape, -1), embedding)
    doubt = F.binary_cross_entropy_with_logits(sure, kept, reduction="none")
    weight = class_weights(ids.device)[kind] * inside * torch.exp(-slots / _DECAY)
    each = _CE * right.view(kept.shape) + _L1 * distance + _CONFIDENCE * doubt
    loss = (each * weight).sum() / (weight.sum() + 1e-6)
    with torch.no_grad():
        best = target.argmax(-1)
        good = inside.all(-1) & (kind < 4).all(-1)
        found = Slots(
            (scores.argmax(-1) == best)[good],
            kept[good],
            sure.sigmoid()[good],
            (best[:, :-1] == following[:, :-1]).all(-1)[good],
            kind[good, 0],
        )
    return loss, found


def summary(slots: list[Slots]) -> dict[str, object]:
    """Figures of many slots, rounded for a log.

    Returns
    -------
    dict
        n: blocks; agree, kept: means by slot; length: drafts kept of greedy text that is the
        trunk's own; ece, brier: of the confidence against `kept`.
    """
    agree = torch.cat([s.agree for s in slots]).float()
    kept = torch.cat([s.kept for s in slots])
    sure = torch.cat([s.confidence for s in slots])
    path = torch.cat([s.on_path for s in slots])
    length = agree[path].cumprod(1).sum(1)
    bins = (sure * N_BIN).long().clamp(max=N_BIN - 1).flatten()
    gap = torch.zeros(N_BIN, dtype=torch.float64)
    gap.index_add_(0, bins, (sure - kept).flatten().double())
    return {
        "n": len(agree),
        "agree": _rounded(agree.mean(0)) if len(agree) else None,
        "kept": _rounded(kept.mean(0)) if len(agree) else None,
        "length": round(float(length.mean()), 4) if len(length) else None,
        "ece": round(float(gap.abs().sum() / max(sure.numel(), 1)), 4),
        "brier": round(float((sure - kept).square().mean()), 4) if len(agree) else None,
    }


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(float(v), 4) for v in values]
