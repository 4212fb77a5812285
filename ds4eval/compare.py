"""Two arms to a comparison: a line per group and for all, flips, costs, verdict, exit status."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from statistics import median

import numpy as np

from ds4eval import stats_paired as paired
from ds4eval.compare_data import (
    Arm,
    Pair,
    Unlike,
    check_by,
    first_divergence,
    given_of,
    pairs_of,
    treatment,
    unlike,
    verdict_of,
)
from ds4eval.grading import PASS
from ds4eval.stats import Interval
from engine.errors import EngineError

# Exit statuses of this command, a part of the program's table.
DONE, REGRESSED, UNLIKE, INCOMPLETE = 0, 1, 2, 5
ALL = "all"


class Verdict(enum.Enum):
    """What may be said of B against A at five per cent."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    NOT_WORSE = "not worse"
    UNDECIDED = "undecided"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Line:
    """One group of questions compared.

    Attributes
    ----------
    name : str
        Group, or 'all'.
    n : int
        Questions that both answered.
    mean_a, mean_b : float
        Avg@k.
    a_only, b_only : int
        Questions that A (B) got right more often; with one repeat, right where the other was not.
    test : str
        'McNemar exact', 'permutation exact' or 'permutation drawn'.
    p_value, p_holm : float
        The second is adjusted over the groups of the table.
    least_p : float
        Smallest p value that so many differing questions can give.
    interval : Interval
        B minus A, 95 per cent.
    student, bootstrap : Interval or None
        Beside it, for more than one repeat.
    se_paired, se_unpaired : float
        Standard error of the difference, and what it would be had the runs no question in common.
    correlation : float or None
        Of question means; None where a run has no spread.
    equivalence : Equivalence
    detectable : float or None
        Smallest difference that so many questions, differing this often, show with 80 per cent.
    """

    name: str
    n: int
    mean_a: float
    mean_b: float
    a_only: int
    b_only: int
    test: str
    p_value: float
    p_holm: float
    least_p: float
    interval: Interval
    student: Interval | None
    bootstrap: Interval | None
    se_paired: float
    se_unpaired: float
    correlation: float | None
    equivalence: paired.Equivalence
    detectable: float | None

    @property
    def verdict(self) -> Verdict:
        if self.p_holm < paired.ALPHA and self.interval.estimate:
            return Verdict.BETTER if self.interval.estimate > 0 else Verdict.WORSE
        if self.equivalence.equivalent:
            return Verdict.EQUIVALENT
        return Verdict.NOT_WORSE if self.equivalence.not_inferior else Verdict.UNDECIDED


@dataclass(frozen=True, slots=True)
class Flip:
    """A question on which the runs differ.

    Answers, states and `diverges` (see `compare_data.first_divergence`) are of the first repeat
    that one run got right and the other did not.
    """

    source: str
    id: str
    passed_a: int
    passed_b: int
    repeats_a: int
    repeats_b: int
    given_a: str
    given_b: str
    state_a: str
    state_b: str
    diverges: int | None

    @property
    def change(self) -> float:
        return self.passed_b / self.repeats_b - self.passed_a / self.repeats_a


@dataclass(frozen=True, slots=True)
class Cost:
    """A quantity of both runs over common answers: means, and the paired difference if known."""

    name: str
    mean_a: float
    mean_b: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A.

    Attributes
    ----------
    lines : list of Line
        One per group, then the one for all questions; empty when the runs are unlike.
    flips : list of Flip
        Losses first.
    unlike, allowed : list of Unlike
        Differences that forbid the comparison, and those that were waived.
    treatment : list of str
        What the runs differ in on purpose.
    answers, same_replies, same_answers : int
        Answers of common repeats; how many are equal as text, and as extracted answer.
    median_divergence : float or None
        Characters that unequal replies share, median over answers.
    left_out : int
        Questions that one run alone has answered.
    """

    a: str
    b: str
    grader: str
    by: str
    repeats: int
    margin: float
    lines: list[Line] = field(default_factory=list)
    flips: list[Flip] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    unlike: list[Unlike] = field(default_factory=list)
    allowed: list[Unlike] = field(default_factory=list)
    treatment: list[str] = field(default_factory=list)
    answers: int = 0
    same_replies: int = 0
    same_answers: int = 0
    median_divergence: float | None = None
    unfinished_a: int = 0
    unfinished_b: int = 0
    left_out: int = 0

    @property
    def overall(self) -> Line | None:
        return self.lines[-1] if self.lines else None

    @property
    def verdict(self) -> Verdict | None:
        return self.overall.verdict if self.overall else None

    def regressed(self, max_regression: float) -> bool:
        """Whether B lost more than `max_regression` (a share), and significantly.

        Both are asked for: a loss within noise is no regression, and a proven loss that is
        small enough was allowed.
        """
        line = self.overall
        return (
            line is not None
            and line.verdict is Verdict.WORSE
            and line.interval.estimate < -max_regression
        )

    def exit_code(self, max_regression: float | None = None, strict: bool = False) -> int:
        """Status of a gate; `strict` also fails unless B is shown not to be worse by the margin."""
        if self.unlike:
            return UNLIKE
        if max_regression is not None and self.regressed(max_regression):
            return REGRESSED
        line = self.overall
        if strict and line is not None and not line.equivalence.not_inferior:
            return REGRESSED
        return INCOMPLETE if self.unfinished_a or self.unfinished_b else DONE


def compare(
    a: Arm,
    b: Arm,
    *,
    grader: str = "strict",
    margin: float = paired.MARGIN,
    by: str = "source",
    allow: Sequence[str] = (),
    seed: int = 0,
) -> Comparison:
    """Compare two runs on the questions that both answered.

    Parameters
    ----------
    a, b : Arm
        B is judged against A.
    grader : str
    margin : float
        Share within which two runs count as equal.
    by : str
        'source', 'domain', 'kind' or a stratum: a line per value.
    allow : sequence of str
        Fields of `compare_data.FIELDS` that may differ.
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
    result = Comparison(
        a=a.label,
        b=b.label,
        grader=grader,
        by=by,
        repeats=min(a.repeats, b.repeats),
        margin=margin,
        unlike=refused,
        allowed=[d for d in differing if d.name in allow],
        treatment=treatment(a, b),
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


def _telling(pair: Pair, grader: str) -> tuple:
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
            sides = [[read(s) for s in side.samples] for side in (pair.a, pair.b)]
            if all(None not in side for side in sides):
                means.append([sum(side) / len(side) for side in sides])
        if means:
            table = np.array(means, dtype=np.float64)
            interval = paired.student(table[:, 1] - table[:, 0])
            costs.append(Cost(name, float(table[:, 0].mean()), float(table[:, 1].mean()), interval))
    return costs
