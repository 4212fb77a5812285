"""What a decode mode is: a value with one method that emits a few tokens and says what it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np

from engine.ops.operands import Logits
from engine.options import MODES

__all__ = [
    "MAX_DRAFT",
    "MODES",
    "Decoder",
    "Distribution",
    "Note",
    "Policy",
    "SpecStats",
    "StepResult",
    "accept",
]

# Tokens that can be drawn, ascending, and their probabilities.
Distribution: TypeAlias = tuple[np.ndarray, np.ndarray]

# What a policy needs to know of its draft when the target judges it; None where nothing.
Note: TypeAlias = "Distribution | None"

MAX_DRAFT = 4  # deepest draft that any mode takes


@dataclass(slots=True)
class StepResult:
    """One step's tokens and costs.

    Parameters
    ----------
    tokens : list of int
        Emitted tokens in order; all of them are in the timeline now.
    next : int
        The token to pass to the next step: chosen, not yet in the timeline.
    drafted, accepted : int
        Tokens proposed and tokens of them that were kept.
    draft_s, verify_s, rollback_s : float
        Seconds in drafting, in the trunk, and in dropping what was not kept (with rewriting the
        drafter's rows).
    """

    tokens: list[int]
    next: int
    drafted: int = 0
    accepted: int = 0
    draft_s: float = 0.0
    verify_s: float = 0.0
    rollback_s: float = 0.0


@dataclass(slots=True)
class SpecStats:
    """Sums over the steps of one run; rates are left to the reader.

    by_position[i] = (drafted, accepted) counts tokens drafted at depth i and kept.
    """

    steps: int = 0
    tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    draft_s: float = 0.0
    verify_s: float = 0.0
    rollback_s: float = 0.0
    by_position: list[list[int]] = field(default_factory=lambda: [[0, 0] for _ in range(MAX_DRAFT)])

    def add(self, result: StepResult) -> None:
        self.steps += 1
        self.tokens += len(result.tokens)
        self.drafted += result.drafted
        self.accepted += result.accepted
        self.draft_s += result.draft_s
        self.verify_s += result.verify_s
        self.rollback_s += result.rollback_s
        for i in range(result.drafted):
            self.by_position[i][0] += 1
            self.by_position[i][1] += i < result.accepted


class Policy(Protocol):
    """How tokens are chosen from logits, and when a draft counts as the target's own choice."""

    def choose(self, logits: Logits, position: int) -> int:
        """The token at `position`, from the logits before it."""

    def propose(self, logits: Logits, position: int) -> tuple[int, Note]:
        """A draft for `position` and whatever `judge` needs to know of it."""

    def judge(self, logits: Logits, draft: int, note: Note, position: int) -> int | None:
        """None when the draft at `position` is kept, else the token that replaces it."""


def accept(
    policy: Policy, logits: Sequence[Logits], drafts: list[int], notes: list[Note], position: int
) -> tuple[int, int]:
    """Drafts kept, and the token after them.

    Parameters
    ----------
    logits : sequence of Logits
        The target's, before each draft and after the last.
    drafts, notes : lists
        The first stands at `position`.
    """
    for i, draft in enumerate(drafts):
        token = policy.judge(logits[i], draft, notes[i], position + i)
        if token is not None:
            return i, token
    return len(drafts), policy.choose(logits[len(drafts)], position + len(drafts))


class Decoder(Protocol):
    """One decode mode over one session."""

    name: str
    stats: SpecStats

    def start(self) -> int:
        """Choose the first token from the session's logits."""

    def step(self, first: int, budget: int) -> StepResult:
        """Put `first` and possibly some of the tokens after it into the timeline.

        Parameters
        ----------
        first : int
            The previous result's `next` (or `start()`).
        budget : int
            Most tokens to emit, at least 1.
        """
