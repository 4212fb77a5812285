"""Compares two runs: pairs their questions, tests the difference, collects flips and costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from statistics import median

import numpy as np

from ds4eval.compare.pairs import (
    AnsweredRun,
    Pair,
    check_by,
    first_divergence,
    given_of,
    pairs_of,
    treatment,
    unlike,
    verdict_of,
    weights_unknown,
)
from ds4eval.compare.result import Cost, Flip, Line, RunComparison
from ds4eval.grading.grade import PASS
from ds4eval.records.record import Sample
from ds4eval.stats import paired
from engine.errors import EngineError

ALL = "all"


def compare(
    a: AnsweredRun,
    b: AnsweredRun,
    *,
    grader: str = "strict",
    margin: float = paired.MARGIN,
    by: str = "source",
    allow: Sequence[str] = (),
    seed: int = 0,
) -> RunComparison:
    """Compare two runs on the questions that both answered.

    Parameters
    ----------
    a, b : AnsweredRun
        B is judged against A.
    grader : str
    margin : float
        Share within which two runs count as equal.
    by : str
        'source', 'domain', 'kind' or a stratum: a line per value.
    allow : sequence of str
        Fields of `ds4eval.compare.pairs.FIELDS` that may differ.
    seed : int
        Of the bootstrap and of drawn permutations.

    Raises
    ------
    EngineError
        If no question was answered by both.
    OptionError
        If there is no such grader, or nothing known by the name of `by`.
    """
    check_by(a, by)
    differing = unlike(a, b, grader)
    refused = [d for d in differing if d.name not in allow]
    result = RunComparison(
        a=a.label,
        b=b.label,
        grader=grader,
        by=by,
        repeats=min(a.repeats, b.repeats),
        margin=margin,
        unlike=refused,
        allowed=[d for d in differing if d.name in allow],
        treatment=treatment(a, b),
        header_only=weights_unknown(a, b),
        unfinished_a=a.unfinished,
        unfinished_b=b.unfinished,
    )
    if refused:
        return result
    pairs = pairs_of(a, b)
    if not pairs:
        raise EngineError(f"{b.label}: expected questions answered by {a.label} too, found none")
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.a.group(by) or "(none)", []).append(pair)
    lines = [_line(name, group, grader, margin, seed) for name, group in groups.items()]
    adjusted = paired.holm([line.p_value for line in lines])
    lines = [replace(line, p_holm=p) for line, p in zip(lines, adjusted)]
    lines.append(_line(ALL, pairs, grader, margin, seed))
    both = [pair.common() for pair in pairs]
    parted = [first_divergence(x, y) for couples in both for x, y in couples]
    known = [d for d in parted if d is not None and d >= 0]
    return replace(
        result,
        lines=lines,
        flips=_flips(pairs, grader),
        costs=_costs(pairs),
        same_replies=parted.count(-1),
        same_answers=sum(
            given_of(x, grader) == given_of(y, grader) for couples in both for x, y in couples
        ),
        answers=len(parted),
        median_divergence=median(known) if known else None,
        left_out=len(a.questions) + len(b.questions) - 2 * len(pairs),
    )


def _line(name: str, pairs: Sequence[Pair], grader: str, margin: float, seed: int) -> Line:
    shares = [
        (
            Fraction(p.a.passed(grader), len(p.a.samples)),
            Fraction(p.b.passed(grader), len(p.b.samples)),
        )
        for p in pairs
    ]
    steps = [y - x for x, y in shares]
    a = np.array([float(x) for x, _ in shares])
    b = np.array([float(y) for _, y in shares])
    d = b - a
    n, b_only, a_only = len(pairs), sum(s > 0 for s in steps), sum(s < 0 for s in steps)
    repeats = min(min(len(p.a.samples), len(p.b.samples)) for p in pairs)
    single = all(len(p.a.samples) == len(p.b.samples) == 1 for p in pairs)
    if single:
        test, p_value = "McNemar exact", paired.mcnemar(a_only, b_only)
    else:
        found = paired.permutation(steps, seed)
        test, p_value = f"permutation {'exact' if found.exact else 'drawn'}", found.p_value
    se = float(d.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    apart = math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / n) if n > 1 else math.nan
    spread = float(a.std() * b.std())
    correlation = float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread else None
    return Line(
        name=name,
        n=n,
        mean_a=float(a.mean()),
        mean_b=float(b.mean()),
        a_only=a_only,
        b_only=b_only,
        test=test,
        p_value=p_value,
        p_holm=p_value,
        least_p=paired.least_p(a_only + b_only),
        interval=paired.difference(a, b, repeats),
        student=None if single else paired.student(d),
        bootstrap=None if single else paired.bootstrap(d, seed=seed),
        se_paired=se,
        se_unpaired=apart,
        correlation=correlation,
        equivalence=paired.equivalence(a, b, margin, repeats),
        detectable=paired.detectable(n, (a_only + b_only) / n)
        if single
        else paired.detectable_mean(se, n),
    )


def _flips(pairs: Sequence[Pair], grader: str) -> list[Flip]:
    flips = []
    for pair in pairs:
        ours, theirs = pair.a.passed(grader), pair.b.passed(grader)
        if ours * len(pair.b.samples) == theirs * len(pair.a.samples):
            continue
        x, y = _telling(pair, grader)
        flips.append(
            Flip(
                pair.a.source,
                pair.a.id,
                ours,
                theirs,
                len(pair.a.samples),
                len(pair.b.samples),
                given_of(x, grader),
                given_of(y, grader),
                x.state,
                y.state,
                first_divergence(x, y) if x.repeat == y.repeat else None,
            )
        )
    # Stable: losses first, greatest change first, then the order of the run.
    return sorted(flips, key=lambda f: (f.change > 0, -abs(f.change)))


def _telling(pair: Pair, grader: str) -> tuple[Sample, Sample]:
    """The first repeat whose verdicts differ; where only the counts differ, the first samples."""
    for x, y in pair.common():
        if (verdict_of(x, grader) == PASS) != (verdict_of(y, grader) == PASS):
            return x, y
    return pair.a.samples[0], pair.b.samples[0]


def _costs(pairs: Sequence[Pair]) -> list[Cost]:
    wanted = (
        ("generated tokens", lambda s: s.gen_tokens),
        ("seconds", lambda s: None if s.decode_s is None else s.decode_s + (s.prefill_s or 0.0)),
        ("cut by the budget", lambda s: float(s.truncated)),
        ("without an answer", lambda s: float(s.verdict not in ("pass", "fail"))),
    )
    costs = []
    for name, read in wanted:
        means = []
        for pair in pairs:
            sides = [_mean([read(s) for s in side.samples]) for side in (pair.a, pair.b)]
            if None not in sides:
                means.append(sides)
        if means:
            table = np.array(means, dtype=np.float64)
            interval = paired.student(table[:, 1] - table[:, 0])
            costs.append(Cost(name, float(table[:, 0].mean()), float(table[:, 1].mean()), interval))
    return costs


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
