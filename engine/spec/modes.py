"""The decode modes as small machines over `Session.eval`, `Session.verify` and a drafter.

Let b be the length of the timeline and `first` the chosen token that will stand at b.

    plain      eval(first)
    strict     eval(first); draft behind the next token; then each token of next, drafts... by a
               single-token evaluation until one differs. Never computes what it has to drop.
    batched    eval(first); draft behind the next token; [next, drafts...] in one verification.
    combined   draft behind first; [first, drafts...] in one verification.

Verification computes each row as a single-token evaluation would, bit for bit, and dropping
rejected rows only moves the end of the timeline, so that every mode emits plain's tokens and
leaves plain's state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter

import numpy as np

from engine.errors import OptionError
from engine.ops.operands import Logits
from engine.session import Session
from engine.spec.depth import DepthControl
from engine.spec.mtp import Drafter
from engine.spec.protocol import (
    MAX_DRAFT,
    MODES,
    Decoder,
    Note,
    Policy,
    SpecStats,
    StepResult,
    accept,
)


class Plain:
    """One token per step."""

    name = "plain"

    def __init__(self, session: Session, policy: Policy) -> None:
        self.session = session
        self.policy = policy
        self.stats = SpecStats()

    def start(self) -> int:
        return self.policy.choose(self.session.last, self.session.n_past)

    def step(self, first: int, budget: int) -> StepResult:
        assert budget >= 1
        begin = perf_counter()
        logits = self.session.eval(first)
        token = self.policy.choose(logits, self.session.n_past)
        result = StepResult([first], token, verify_s=perf_counter() - begin)
        self.stats.add(result)
        return result


class _Speculative:
    """What the three speculative modes share: drafting, and steps too short to draft."""

    def __init__(
        self,
        session: Session,
        policy: Policy,
        depth: DepthControl,
        stop: Iterable[int],
        margin: float,
        clock: Callable[[], float],
    ) -> None:
        self.session = session
        self.policy = policy
        self.depth = depth
        self.stop = frozenset(stop)
        self.margin = margin
        self.clock = clock
        self.drafter = Drafter(session)
        self.stats = SpecStats()

    def start(self) -> int:
        return self.policy.choose(self.session.last, self.session.n_past)

    def _draft(self, token: int, pos: int, k: int) -> tuple[list[int], list[Note]]:
        """Up to k tokens behind `token`, which stands at `pos`."""
        drafts: list[int] = []
        notes: list[Note] = []
        state = self.session.hidden
        assert state is not None  # the drafter was ready
        for i in range(k):
            logits, state = self.drafter.draft(state, token, pos + i)
            if self.margin > 0 and _gap(logits) < self.margin:
                break
            token, note = self.policy.propose(logits, pos + i + 1)
            drafts.append(token)
            notes.append(note)
            if token in self.stop:
                break
        return drafts, notes

    def _single(self, token: int) -> Logits:
        """Evaluate one token and keep the drafter's window whole."""
        session, b = self.session, self.session.n_past
        ready = self.drafter.ready()
        logits = session.eval(token)
        if ready:
            self.drafter.committed(session.states(b - 1, 1), [token], b)
        return logits

    def _count(self, limit: int) -> int:
        """Drafts to make when at most `limit` fit."""
        return max(0, min(self.depth.choose(), limit, self.session.room - 1))

    def _done(self, result: StepResult) -> StepResult:
        self.stats.add(result)
        return result


class Combined(_Speculative):
    """Drafts behind the chosen token and verifies it together with them."""

    name = "mtp-combined"

    def step(self, first: int, budget: int) -> StepResult:
        session, clock = self.session, self.clock
        b = session.n_past
        t0 = clock()
        k = self._count(budget - 1)
        if k == 0 or first in self.stop or not self.drafter.ready():
            logits = self._single(first)
            token = self.policy.choose(logits, session.n_past)
            return self._done(StepResult([first], token, verify_s=clock() - t0))
        drafts, notes = self._draft(first, b, k)
        t1 = clock()
        checked, states = session.verify([first, *drafts])
        kept, token = accept(self.policy, checked, drafts, notes, b + 1)
        t2 = clock()
        session.rewind(b + 1 + kept, checked[kept].values)
        self.drafter.committed(states[:kept], drafts[:kept], b + 1)
        t3 = clock()
        self.depth.observe(len(drafts), kept, t1 - t0, t2 - t1, t3 - t2)
        return self._done(
            StepResult([first, *drafts[:kept]], token, len(drafts), kept, t1 - t0, t2 - t1, t3 - t2)
        )


class Batched(_Speculative):
    """Evaluates the chosen token alone, then verifies the next one and the drafts behind it."""

    name = "mtp-batched"

    def step(self, first: int, budget: int) -> StepResult:
        session, clock = self.session, self.clock
        t0 = clock()
        logits = self._single(first)
        second = self.policy.choose(logits, session.n_past)
        t1 = clock()
        k = self._count(budget - 2)
        if k == 0 or first in self.stop or second in self.stop or not self.drafter.ready():
            return self._done(StepResult([first], second, verify_s=t1 - t0))
        b = session.n_past
        drafts, notes = self._draft(second, b, k)
        t2 = clock()
        if not drafts:
            # The drafter has written the row of `second`, which is not in the timeline yet; the
            # next step writes the same row again.
            return self._done(StepResult([first], second, draft_s=t2 - t1, verify_s=t1 - t0))
        kept, token, verify_s, rollback_s = self._verify(second, drafts, notes, b)
        self.depth.observe(len(drafts), kept, t2 - t1, verify_s, rollback_s)
        return self._done(
            StepResult(
                [first, second, *drafts[:kept]],
                token,
                len(drafts),
                kept,
                t2 - t1,
                t1 - t0 + verify_s,
                rollback_s,
            )
        )

    def _verify(
        self, second: int, drafts: list[int], notes: list[Note], b: int
    ) -> tuple[int, int, float, float]:
        session, clock = self.session, self.clock
        t0 = clock()
        logits, states = session.verify([second, *drafts])
        kept, token = accept(self.policy, logits, drafts, notes, b + 1)
        t1 = clock()
        session.rewind(b + 1 + kept, logits[kept].values)
        self.drafter.committed(states[:kept], drafts[:kept], b + 1)
        return kept, token, t1 - t0, clock() - t1


class Strict(Batched):
    """As batched, but every token goes through the single-token evaluation."""

    name = "mtp-strict"

    def _verify(
        self, second: int, drafts: list[int], notes: list[Note], b: int
    ) -> tuple[int, int, float, float]:
        session, clock = self.session, self.clock
        t0 = clock()
        logits = session.eval(second)
        for i, draft in enumerate(drafts):
            replacement = self.policy.judge(logits, draft, notes[i], b + 1 + i)
            if replacement is not None:
                kept, token = i, replacement
                break
            logits = session.eval(draft)
        else:
            kept = len(drafts)
            token = self.policy.choose(logits, session.n_past)
        t1 = clock()
        self.drafter.committed(session.states(b, kept), drafts[:kept], b + 1)
        return kept, token, t1 - t0, clock() - t1


def _gap(logits: Logits) -> float:
    """Distance between the two largest logits."""
    top = np.partition(np.asarray(logits), -2)[-2:]
    return float(top[1] - top[0])


_CLASSES = {c.name: c for c in (Strict, Batched, Combined)}


def open_decoder(
    session: Session,
    mode: str,
    policy: Policy,
    *,
    draft: int = 1,
    adaptive: bool = False,
    stop: Iterable[int] = (),
    margin: float = 0.0,
    clock: Callable[[], float] = perf_counter,
) -> Decoder:
    """A decoder of the given mode over a session.

    Parameters
    ----------
    session : Session
    mode : str
        One of `MODES`.
    policy : Policy
        `Greedy` or `Sampled`.
    draft : int
        Tokens drafted per step, 1 to 4 (the most, when adaptive).
    adaptive : bool
        Choose the depth from measured acceptance and cost.
    stop : iterable of int
        Nothing is drafted behind these tokens.
    margin : float
        Stop drafting where the block's two best logits are closer than this; 0: never.

    Raises
    ------
    OptionError
        If the mode is unknown, needs an MTP block that the engine lacks, or `draft` is out of
        range.
    """
    if mode not in MODES:
        raise OptionError(f"mode: expected one of {', '.join(MODES)}, found {mode!r}")
    if mode == "plain":
        return Plain(session, policy)
    if session.engine.mtp is None:
        raise OptionError(f"mode: {mode} needs an MTP block, found a model without one")
    if not 1 <= draft <= MAX_DRAFT:
        raise OptionError(f"draft: expected 1 to {MAX_DRAFT}, found {draft}")
    return _CLASSES[mode](session, policy, DepthControl(draft, adaptive), stop, margin, clock)
