"""The decode modes as small machines over `Session.eval`, `Session.verify` and a drafter.

Let b be the length of the timeline and `first` the chosen token that will stand at b.

    plain      eval(first)
    strict     eval(first); draft behind the next token; then each token of next, drafts... by a
               single-token evaluation until one differs. Never computes what it has to drop.
    batched    eval(first); draft behind the next token; [next, drafts...] in one verification.
    combined   draft behind first; [first, drafts...] in one verification.
    dspark     the same with a DSpark drafter; dspark-strict evaluates first and each draft alone,
               until one differs.

A mode knows a drafter by `Drafter` alone: which drafts it makes, and how, is not known here.

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
from engine.spec.dspark import DsparkDrafter
from engine.spec.mtp import MtpDrafter
from engine.spec.protocol import (
    MODES,
    Decoder,
    Drafter,
    Drafts,
    Policy,
    SpecStats,
    StepResult,
    accept,
)
from engine.spec.schedule import Schedule


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


class _Limits:
    """When a drafter stops early: see `Rule`."""

    def __init__(
        self, stop: Iterable[int], margin: float, confidence: float, depth: DepthControl | Schedule
    ) -> None:
        self.stop = frozenset(stop)
        self.margin = margin
        self.confidence = confidence
        self.depth = depth

    def goes_on(self, slot: int, logits: Logits, confidence: float | None) -> bool:
        if self.margin > 0 and _gap(logits) < self.margin:
            return False
        if confidence is None:
            return True
        return confidence >= self.confidence and self.depth.goes_on(slot, confidence)


class _Speculative:
    """What the speculative modes share: drafting, and steps too short to draft."""

    def __init__(
        self,
        name: str,
        session: Session,
        policy: Policy,
        drafter: Drafter,
        limits: _Limits,
        clock: Callable[[], float],
        singly: bool,
    ) -> None:
        self.name = name
        self.singly = singly  # whether drafts are checked one by one
        self.session = session
        self.policy = policy
        self.drafter = drafter
        self.limits = limits
        self.depth = limits.depth
        self.clock = clock
        self.stats = SpecStats()

    def start(self) -> int:
        return self.policy.choose(self.session.last, self.session.n_past)

    def _ends(self, token: int) -> bool:
        return token in self.limits.stop

    def _draft(self, token: int, pos: int, k: int) -> Drafts:
        """Up to k tokens behind `token`, which stands at `pos`."""
        return self.drafter.propose(token, pos, k, self.policy, self.limits)

    def _single(self, token: int) -> Logits:
        """Evaluate one token, and write its row where the drafter cannot wait."""
        session, b = self.session, self.session.n_past
        kept_up = self.drafter.keep_up()
        logits = session.eval(token)
        if kept_up:
            self.drafter.committed(b)
        return logits

    def _count(self, limit: int) -> int:
        """Drafts to make when at most `limit` fit."""
        return max(0, min(self.depth.choose(), limit, self.session.room - 1))

    def _verify(self, token: int, drafts: Drafts, b: int) -> tuple[int, int, float, float]:
        """Put `token`, which stands at b, and the drafts that are kept into the timeline.

        Returns
        -------
        kept, following : int
            Drafts kept, and the token behind them.
        verify_s, rollback_s : float
        """
        session, clock = self.session, self.clock
        t0 = clock()
        if self.singly:
            kept, following = _one_by_one(session, self.policy, token, drafts, b)
            t1 = clock()
        else:
            checked, _ = session.verify([token, *drafts.tokens])
            kept, following = accept(self.policy, checked, drafts.tokens, drafts.notes, b + 1)
            t1 = clock()
            session.rewind(b + 1 + kept, checked[kept].values)
        self.drafter.committed(b + 1)
        return kept, following, t1 - t0, clock() - t1

    def _done(self, result: StepResult) -> StepResult:
        self.stats.add(result)
        return result


class Combined(_Speculative):
    """Drafts behind the chosen token and verifies it with them."""

    def step(self, first: int, budget: int) -> StepResult:
        session, clock = self.session, self.clock
        b = session.n_past
        t0 = clock()
        k = self._count(budget - 1)
        if k == 0 or self._ends(first) or not self.drafter.ready():
            logits = self._single(first)
            token = self.policy.choose(logits, session.n_past)
            took = clock() - t0
            self.depth.observe_plain(took)
            return self._done(StepResult([first], token, verify_s=took))
        context_s = clock() - t0
        drafts = self._draft(first, b, k)
        drafts.context_s = context_s
        draft_s = clock() - t0
        kept, token, verify_s, rollback_s = self._verify(first, drafts, b)
        n = len(drafts.tokens)
        self.depth.observe(drafts, kept, draft_s, verify_s, rollback_s)
        tokens = [first, *drafts.tokens[:kept]]
        return self._done(
            StepResult(tokens, token, n, kept, draft_s, verify_s, rollback_s, drafts=drafts)
        )


class Batched(_Speculative):
    """Evaluates the chosen token alone, then verifies the next one with the drafts behind it."""

    def step(self, first: int, budget: int) -> StepResult:
        session, clock = self.session, self.clock
        t0 = clock()
        logits = self._single(first)
        second = self.policy.choose(logits, session.n_past)
        t1 = clock()
        k = self._count(budget - 2)
        if k == 0 or self._ends(first) or self._ends(second) or not self.drafter.ready():
            return self._done(StepResult([first], second, verify_s=t1 - t0))
        b = session.n_past
        drafts = self._draft(second, b, k)
        t2 = clock()
        if not drafts.tokens:
            # The drafter has written the row of `second`, which is not in the timeline yet; the
            # next step writes the same row again.
            return self._done(StepResult([first], second, draft_s=t2 - t1, verify_s=t1 - t0))
        kept, token, verify_s, rollback_s = self._verify(second, drafts, b)
        self.depth.observe(drafts, kept, t2 - t1, verify_s, rollback_s)
        return self._done(
            StepResult(
                [first, second, *drafts.tokens[:kept]],
                token,
                len(drafts.tokens),
                kept,
                t2 - t1,
                t1 - t0 + verify_s,
                rollback_s,
                drafts=drafts,
            )
        )


def _one_by_one(
    session: Session, policy: Policy, token: int, drafts: Drafts, b: int
) -> tuple[int, int]:
    """Evaluate `token` at b, then drafts until one differs; those kept, and the token after."""
    logits = session.eval(token)
    for i, draft in enumerate(drafts.tokens):
        replacement = policy.judge(logits, draft, drafts.notes[i], b + 1 + i)
        if replacement is not None:
            return i, replacement
        logits = session.eval(draft)
    return len(drafts.tokens), policy.choose(logits, session.n_past)


def _gap(logits: Logits) -> float:
    """Distance between the two largest logits."""
    top = np.partition(np.asarray(logits), -2)[-2:]
    return float(top[1] - top[0])


# The steps of a mode, and whether it checks drafts one by one.
_STEPS: dict[str, tuple[type[Combined] | type[Batched], bool]] = {
    "mtp-strict": (Batched, True),
    "mtp-batched": (Batched, False),
    "mtp-combined": (Combined, False),
    "dspark": (Combined, False),
    "dspark-strict": (Combined, True),
}


def open_decoder(
    session: Session,
    mode: str,
    policy: Policy,
    *,
    draft: int | None = None,
    adaptive: bool = False,
    stop: Iterable[int] = (),
    margin: float = 0.0,
    confidence: float = 0.0,
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
    draft : int, optional
        Tokens drafted per step (the most, when adaptive): 1 to 4 of an MTP block, 1 to its block
        of a DSpark drafter. By default 1, and the whole block.
    adaptive : bool
        Choose the depth from measured acceptance and cost.
    stop : iterable of int
        Nothing is drafted behind these tokens.
    margin : float
        Stop drafting where the drafter's two best logits are closer than this; 0: never.
    confidence : float
        Stop drafting where the drafter is less sure than this, 0 to 1; an MTP block never says.

    Raises
    ------
    OptionError
        If the mode is unknown, needs a drafter that the engine lacks, or a value is out of range.
    """
    if mode not in MODES:
        raise OptionError(f"mode: expected one of {', '.join(MODES)}, found {mode!r}")
    if mode == "plain":
        return Plain(session, policy)
    drafter = _open_drafter(session, mode)
    sparks = isinstance(drafter, DsparkDrafter)
    if draft is None:
        draft = drafter.most if sparks else 1
    if not 1 <= draft <= drafter.most:
        raise OptionError(f"draft: expected 1 to {drafter.most}, found {draft}")
    if not 0 <= confidence <= 1:
        raise OptionError(f"confidence: expected 0 to 1, found {confidence}")
    depth = Schedule(draft) if sparks and adaptive else DepthControl(draft, adaptive)
    limits = _Limits(stop, margin, confidence, depth)
    steps, singly = _STEPS[mode]
    return steps(mode, session, policy, drafter, limits, clock, singly)


def _open_drafter(session: Session, mode: str) -> Drafter:
    engine = session.engine
    if mode.startswith("dspark"):
        if engine.dspark is None:
            raise OptionError(f"mode: {mode} needs a DSpark drafter, found a model without one")
        return DsparkDrafter(session)
    if engine.mtp is None:
        raise OptionError(f"mode: {mode} needs an MTP block, found a model without one")
    return MtpDrafter(session)
