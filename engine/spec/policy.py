"""Greedy and sampled choice, and the rule by which a drafted token is kept.

Rejection sampling after Leviathan et al. (2023) and Chen et al. (2023): a draft d from q is kept
with probability min(1, p(d)/q(d)); at the first rejection the token is drawn from the normalised
positive part of p - q. The emitted tokens have exactly the distribution p.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from engine.ops.operands import Logits
from engine.sample import Sampler, pick
from engine.spec.protocol import Distribution, Note

# Independent random numbers of one position (see Sampler.uniform); 0 is plain sampling's own.
LANE_DRAFT, LANE_ACCEPT, LANE_RESIDUAL = 1, 2, 3
_NEVER = np.finfo(np.float32).min


class _Banned:
    """Tokens that must not be chosen, masked for the length of a call."""

    def __init__(self, banned: Iterable[int]) -> None:
        self.ids = np.array(sorted(set(banned)), np.int64)

    def __bool__(self) -> bool:
        return self.ids.size > 0

    def masked(self, logits: Logits) -> np.ndarray:
        """The logits on the host; themselves when nothing is banned, else a masked copy."""
        values: np.ndarray = np.asarray(logits)
        if not self.ids.size:
            return values
        values = values.copy()
        values[self.ids] = _NEVER
        return values


class Greedy:
    """First maximum of the logits, never one of `banned`; a draft is kept when it is that."""

    maxima_without: np.ndarray | None

    def __init__(self, banned: Iterable[int] = ()) -> None:
        self.maxima_without = self._ids = _Banned(banned).ids

    def choose(self, logits: Logits, position: int) -> int:
        return logits.choose(self._ids)

    def propose(self, logits: Logits, position: int) -> tuple[int, Note]:
        return self.choose(logits, position), None

    def judge(self, logits: Logits, draft: int, note: Note, position: int) -> int | None:
        token = self.choose(logits, position)
        return None if token == draft else token


class Sampled:
    """Truncated sampling; drafts come from the block's truncated distribution.

    Parameters
    ----------
    sampler : Sampler
        Its random numbers are keyed by position, so equal text draws equal numbers.
    banned : iterable of int
    """

    maxima_without: np.ndarray | None = None

    def __init__(self, sampler: Sampler, banned: Iterable[int] = ()) -> None:
        self.sampler = sampler
        self._banned = _Banned(banned)

    def choose(self, logits: Logits, position: int) -> int:
        return self.sampler.sample(self._banned.masked(logits), position)

    def propose(self, logits: Logits, position: int) -> tuple[int, Note]:
        ids, q = self.sampler.distribution(self._banned.masked(logits))
        return pick(ids, q, self.sampler.uniform(position, LANE_DRAFT)), (ids, q)

    def judge(self, logits: Logits, draft: int, note: Note, position: int) -> int | None:
        ids, p = self.sampler.distribution(self._banned.masked(logits))
        assert note is not None, "a draft of this policy carries its distribution"
        q_of_p = probability(note, ids)
        p_draft = float(probability((ids, p), np.array([draft]))[0])
        q_draft = float(probability(note, np.array([draft]))[0])
        if self.sampler.uniform(position, LANE_ACCEPT) * q_draft < p_draft:
            return None
        left = np.maximum(p - q_of_p, 0.0)
        # Where rounding leaves nothing (p below q everywhere), p itself is the limit.
        weights = left if left.sum() > 0 else p
        return pick(ids, weights, self.sampler.uniform(position, LANE_RESIDUAL))


def probability(sparse: Distribution, tokens: np.ndarray) -> np.ndarray:
    """Probabilities of `tokens` in a sparse distribution (ascending ids, probabilities)."""
    ids, probs = sparse
    at = np.searchsorted(ids, tokens)
    at = np.minimum(at, len(ids) - 1)
    return np.where(ids[at] == tokens, probs[at], 0.0)
