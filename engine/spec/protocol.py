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
    "N_BIN",
    "PER_BIN",
    "Decoder",
    "Distribution",
    "Drafter",
    "Drafts",
    "Note",
    "Policy",
    "Rule",
    "SpecStats",
    "StepResult",
    "accept",
]

# Tokens that can be drawn, ascending, and their probabilities.
Distribution: TypeAlias = tuple[np.ndarray, np.ndarray]

# What a policy needs to know of its draft when the target judges it; None where nothing.
Note: TypeAlias = "Distribution | None"

MAX_DRAFT = 4  # deepest draft of an MTP block, which is trained to look one token ahead
N_BIN = 10  # of confidences, in tables of reliability
PER_BIN = 4  # numbers of one bin: see `SpecStats`


@dataclass(slots=True)
class Drafts:
    """What a drafter proposes in one step; one entry a token in every list that is not empty.

    Parameters
    ----------
    tokens : list of int
    notes : list of Note
        What the policy needs to judge each of them.
    confidences : list of float
        The drafter's own estimate that a draft is kept; empty where it makes none.
    context_s, block_s, head_s : float
        Seconds in bringing the drafter's rows up to date, in its layers, and in choosing tokens.
    """

    tokens: list[int] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    context_s: float = 0.0
    block_s: float = 0.0
    head_s: float = 0.0


class Rule(Protocol):
    """When a drafter stops before the most drafts that it was asked for.

    Sampling stays exact because nothing here looks at the token whose slot is decided on.
    """

    stop: frozenset[int]  # nothing is drafted behind these tokens

    def goes_on(self, slot: int, logits: Logits, confidence: float | None) -> bool:
        """Whether slot `slot`, counted from 0, is drafted at all."""


class Drafter(Protocol):
    """Guesses tokens behind a session's live end; owns its rows, never the timeline."""

    most: int  # drafts in one step

    def ready(self) -> bool:
        """Bring the drafter up to the live end; False when the session lacks what that takes."""

    def keep_up(self) -> bool:
        """Before a token is evaluated without drafts: whether its row is to be written at once.

        True after what `ready` does, and `committed` must follow; False where rows can wait for the
        next draft, or the session lacks what they take.
        """

    def propose(self, token: int, pos: int, k: int, policy: Policy, rule: Rule) -> Drafts:
        """Up to k drafts behind `token`, which will stand at `pos`, the live end."""

    def committed(self, first: int) -> None:
        """The tokens from position `first` on are in the timeline to stay."""


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
    drafts : Drafts or None
        What was proposed, with its confidences and its costs by part.
    """

    tokens: list[int]
    next: int
    drafted: int = 0
    accepted: int = 0
    draft_s: float = 0.0
    verify_s: float = 0.0
    rollback_s: float = 0.0
    drafts: Drafts | None = None


@dataclass(slots=True)
class SpecStats:
    """Sums over the steps of one run; rates are left to the reader.

    by_position[i] = (drafted, accepted) counts tokens drafted at depth i and kept. reliability[i]
    has for each of `N_BIN` bins of confidence at depth i: drafts that were judged, drafts kept, the
    sum of their confidences, and the sum of squared differences of confidence and outcome.
    """

    steps: int = 0
    tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    draft_s: float = 0.0
    verify_s: float = 0.0
    rollback_s: float = 0.0
    by_position: list[list[int]] = field(default_factory=lambda: [[0, 0] for _ in range(MAX_DRAFT)])
    context_s: float = 0.0
    block_s: float = 0.0
    head_s: float = 0.0
    idle_steps: int = 0  # that drafted nothing
    reliability: list[list[list[float]]] = field(default_factory=list)

    def add(self, result: StepResult) -> None:
        self.steps += 1
        self.tokens += len(result.tokens)
        self.drafted += result.drafted
        self.accepted += result.accepted
        self.draft_s += result.draft_s
        self.verify_s += result.verify_s
        self.rollback_s += result.rollback_s
        self.idle_steps += not result.drafted
        for i in range(result.drafted):
            if i == len(self.by_position):
                self.by_position.append([0, 0])
            self.by_position[i][0] += 1
            self.by_position[i][1] += i < result.accepted
        if result.drafts is not None:
            self._add_drafts(result.drafts, result.accepted)

    def _add_drafts(self, drafts: Drafts, kept: int) -> None:
        self.context_s += drafts.context_s
        self.block_s += drafts.block_s
        self.head_s += drafts.head_s
        # The first draft that is not kept was judged, those behind it were not.
        for i, confidence in enumerate(drafts.confidences[: kept + 1]):
            if i == len(self.reliability):
                self.reliability.append([[0, 0, 0.0, 0.0] for _ in range(N_BIN)])
            row = self.reliability[i][min(int(confidence * N_BIN), N_BIN - 1)]
            hit = i < kept
            row[0] += 1
            row[1] += hit
            row[2] += confidence
            row[3] += (confidence - hit) ** 2


class Policy(Protocol):
    """How tokens are chosen from logits, and when a draft counts as the target's own choice."""

    # Ids that are never chosen (int64, ascending), where every draft is the first maximum of the
    # others and carries no note; None where it is not.
    maxima_without: np.ndarray | None

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
