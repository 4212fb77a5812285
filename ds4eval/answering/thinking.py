"""Decides when a think block is closed for the model, from token counts and the tag's rank.

    open --natural close--> closed
    open --remaining <= hard--> emit tag (and cue) --> closed      'hard_forced'
    open --remaining <= soft, tag among the likeliest--> the same  'soft_forced'

The rules, their order and the recorded figures are those of the C program ds4-eval (2026-05).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ds4eval.records.record import HARD, NATURAL, SOFT


@dataclass(frozen=True, slots=True)
class Close:
    """The first close of a think block.

    Parameters
    ----------
    kind : str
    index : int
        1-based place of the tag among the generated tokens.
    remaining : int
        Budget left before the tag.
    rank : int
        1-based place of the tag among the logits for a soft close, otherwise 0.
    """

    kind: str
    index: int
    remaining: int
    rank: int


class ThinkBudget:
    """Decides before each token whether it is forced.

    Parameters
    ----------
    limit : int
        Most tokens of this reply.
    soft, hard, rank : int
        See `ds4eval.plan.Budget`.
    close : sequence of int
        Tokens of the close tag; with more than one the soft rule is off.
    cue : sequence of int
        Tokens forced behind a forced tag.
    active : bool
        False: nothing is ever forced (thinking was not asked for).
    """

    def __init__(
        self,
        limit: int,
        soft: int,
        hard: int,
        rank: int,
        close: Sequence[int],
        cue: Sequence[int] = (),
        active: bool = True,
    ) -> None:
        self.limit = limit
        self.soft = soft
        self.hard = hard
        self.rank = rank
        self.close = tuple(close)
        self.cue = tuple(cue)
        self.active = active and bool(self.close)
        self.closed: Close | None = None
        self._queue: list[int] = []

    @property
    def answer_from(self) -> int:
        """Tokens after which thinking is over for certain; progress counts towards this."""
        return max(self.limit - self.hard, 0) if self.active else self.limit

    def free(self, generated: int, thinking: bool) -> int:
        """Tokens that may be generated before `force` has to be asked again, at least 1."""
        left = self.limit - generated
        if self._queue:
            return 1
        if not (self.active and thinking):
            return max(left, 1)
        watched = self.soft if len(self.close) == 1 else self.hard
        return max(left - max(watched, self.hard), 1)

    def force(
        self, generated: int, thinking: bool, rank_of: Callable[[int, int], int]
    ) -> int | None:
        """The token that must come next, or None to let the model choose.

        Parameters
        ----------
        generated : int
            Tokens so far.
        thinking : bool
            Whether the text so far leaves a think block open.
        rank_of : callable
            ``rank_of(token, most)``: 1-based place among the logits, 0 if beyond `most`.
        """
        if self._queue:
            return self._queue.pop(0)
        if not (self.active and thinking):
            return None
        remaining = self.limit - generated
        if remaining <= self.hard:
            return self._close(HARD, generated, remaining, 0)
        if remaining <= self.soft and len(self.close) == 1:
            rank = rank_of(self.close[0], self.rank)
            if rank:
                return self._close(SOFT, generated, remaining, rank)
        return None

    def closed_by_model(self, generated: int) -> None:
        """Hear that token number `generated` (1-based) closed the block unforced."""
        if self.closed is None:
            self.closed = Close(NATURAL, generated, self.limit - generated + 1, 0)

    def _close(self, kind: str, generated: int, remaining: int, rank: int) -> int:
        if self.closed is None:
            self.closed = Close(kind, generated + 1, remaining, rank)
        self._queue = [*self.close[1:], *self.cue]
        return self.close[0]


def rank_in_top(logits: np.ndarray, token: int, most: int) -> int:
    """1-based place of a token among raw logits (ties: lower id first); 0 if beyond `most`.

    Parameters
    ----------
    logits : float32 array of shape (n_vocab,)
    """
    value = logits[token]
    if not np.isfinite(value):
        return 0
    above = int((logits > value).sum()) + int((logits[:token] == value).sum())
    return above + 1 if above < most else 0
