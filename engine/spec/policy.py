"""Greedy and sampled choice, and the rule by which a drafted token is kept.

Rejection sampling after Leviathan et al. (2023) and Chen et al. (2023): a draft d from q is kept
with probability min(1, p(d)/q(d)); at the first rejection the token is drawn from the normalised
positive part of p - q. The emitted tokens have exactly the distribution p.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from engine.sample import argmax


class Greedy:
    """First maximum of the logits, never one of `banned`; a draft is kept when it is that."""

    def __init__(self, banned: Iterable[int] = ()) -> None:
        self.banned = np.array(sorted(set(banned)), np.int64)

    def choose(self, logits: np.ndarray, position: int) -> int:
        if not self.banned.size:
            return argmax(logits)
        saved = logits[self.banned].copy()
        logits[self.banned] = np.finfo(np.float32).min
        token = argmax(logits)
        logits[self.banned] = saved
        return token

    def propose(self, logits: np.ndarray, position: int) -> tuple[int, object]:
        return self.choose(logits, position), None

    def judge(self, logits: np.ndarray, draft: int, note: object, position: int) -> int | None:
        token = self.choose(logits, position)
        return None if token == draft else token
