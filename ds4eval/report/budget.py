"""Score over budget from one run: how many replies had been right, and over, at smaller budgets.

A reply that ended by itself after n tokens would have been the same under every budget of n tokens
or more; under a smaller one it would have been cut, and what it had said then nobody knows. So each
point holds a score and a bound: what was right by then, and that with every unfinished reply right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ds4eval.records.record import LIMIT, Sample
from ds4eval.stats.scores import clustered
from engine.tooling.report.intervals import Interval

# Doublings, as budgets are named; below a thousand tokens in powers of two.
_STEPS = (32, 64, 128, 256, 512, *(1000 << i for i in range(11)))
NOTABLE = 1000  # a run of shorter replies, none of them cut, says nothing of budgets
MOST_POINTS = 12


@dataclass(frozen=True, slots=True)
class BudgetPoint:
    """What a budget of `tokens` would have shown.

    Attributes
    ----------
    tokens : int
    right, unfinished : int
        Replies that were right and over by then, and those that went on.
    interval : Interval
        Share right with its 95 per cent interval; the question is the unit.
    most : float
        Share if every unfinished reply had turned out right.
    """

    tokens: int
    right: int
    unfinished: int
    interval: Interval
    most: float


@dataclass(frozen=True, slots=True)
class BudgetCurve:
    """Points in rising order, over `answers` replies; `unknown` more did not say their tokens."""

    points: tuple[BudgetPoint, ...]
    answers: int
    unknown: int
    notable: bool


@dataclass(frozen=True, slots=True)
class _Reply:
    tokens: int
    right: bool
    cut: bool


def budget_curve(questions: Sequence[Sequence[tuple[Sample, bool]]]) -> BudgetCurve:
    """Curve of a run.

    Parameters
    ----------
    questions : sequence
        For each question its samples, each with whether it is right.
    """
    replies: list[list[_Reply]] = []
    unknown, limits = 0, [0]
    for question in questions:
        known = [
            _Reply(sample.gen_tokens, right, sample.stop == LIMIT)
            for sample, right in question
            if sample.gen_tokens is not None
        ]
        limits += [sample.limit_tokens or 0 for sample, _ in question]
        unknown += len(question) - len(known)
        if known:
            replies.append(known)
    flat = [reply for question in replies for reply in question]
    longest = max((reply.tokens for reply in flat), default=0)
    points = [_point(tokens, replies) for tokens in _budgets(flat, longest, max(limits))]
    notable = longest >= NOTABLE or any(reply.cut for reply in flat)
    return BudgetCurve(tuple(points), len(flat), unknown, notable and len(points) > 1)


def _budgets(flat: Sequence[_Reply], longest: int, limit: int) -> list[int]:
    """From the first step by which a reply was over to the first that holds them all."""
    first = min((reply.tokens for reply in flat if not reply.cut), default=longest)
    if not flat:
        return []
    inner = [step for step in _STEPS if first <= step < longest][-(MOST_POINTS - 1) :]
    last = next((step for step in _STEPS if step >= longest), longest)
    return [*inner, min(last, limit) if limit >= longest else last]


def _point(tokens: int, questions: Sequence[Sequence[_Reply]]) -> BudgetPoint:
    def over(reply: _Reply) -> bool:
        return not reply.cut and reply.tokens <= tokens

    means = [sum(over(r) and r.right for r in part) / len(part) for part in questions]
    flat = [reply for part in questions for reply in part]
    right = sum(over(reply) and reply.right for reply in flat)
    unfinished = sum(not over(reply) for reply in flat)
    open_ = [sum(not over(r) for r in part) / len(part) for part in questions]
    most = sum(means) / len(means) + sum(open_) / len(open_)
    return BudgetPoint(tokens, right, unfinished, clustered(means), min(most, 1.0))


def short(tokens: int) -> str:
    """Tokens as budgets are named: 512, 16k, 1.5k."""
    return f"{tokens / 1000:g}k" if tokens >= 1000 else str(tokens)


def curve_line(curve: BudgetCurve) -> str:
    """The whole curve in a sentence."""
    parts = [
        f"{short(point.tokens)} {100 * point.interval.estimate:.1f} %"
        + (f" (to {100 * point.most:.1f})" if point.unfinished else "")
        for point in curve.points
    ]
    text = f"right by tokens: {', '.join(parts)}"
    if any(point.unfinished for point in curve.points):
        text += "; in brackets with every unfinished reply right"
    if curve.unknown:
        text += f"; {curve.unknown} replies without a count left out"
    return text
