"""How far apart two sets of logits are, and where the figures of a test run are collected."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

RESULTS: list[dict[str, object]] = []


@dataclass(frozen=True)
class Distance:
    """Figures over all positions; KL of the second from the first, nats, mean over positions."""

    max_abs: float
    rms: float
    top1: float
    kl: float


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def distance(reference: np.ndarray, other: np.ndarray) -> Distance:
    """Distance between float arrays (n, n_vocab); NaN anywhere makes max_abs NaN."""
    assert reference.shape == other.shape, (reference.shape, other.shape)
    diff = other.astype(np.float64) - reference
    p, q = _log_softmax(reference), _log_softmax(other)
    return Distance(
        float(np.abs(diff).max()),
        float(np.sqrt((diff**2).mean())),
        float((reference.argmax(-1) == other.argmax(-1)).mean()),
        float((np.exp(p) * (p - q)).sum(-1).mean()),
    )


def report(what: str, n_tokens: int, d: Distance) -> Distance:
    """Keep the figures for the table at the end of the run."""
    RESULTS.append({"comparison": what, "tokens": n_tokens, **asdict(d)})
    return d
