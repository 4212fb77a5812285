"""Holds what a comparison found: a line per group, flips, costs, verdict and exit status.

These are values only: nothing here computes a statistic or prints.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from ds4eval.compare.pairs import Unlike
from ds4eval.stats import paired
from engine.tooling import exits
from engine.tooling.report.intervals import Interval


class RunVerdict(enum.Enum):
    """What may be said of B against A at five per cent; the same: every reply is equal."""

    SAME = "the same"
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
    def verdict(self) -> RunVerdict:
        if self.p_holm < paired.ALPHA and self.interval.estimate:
            return RunVerdict.BETTER if self.interval.estimate > 0 else RunVerdict.WORSE
        # The tests are one-sided and see more than the interval that stands beside the verdict;
        # words that the interval contradicts would be read as a mistake.
        margin = self.equivalence.margin
        if self.equivalence.not_inferior and self.interval.low > -margin:
            within = self.equivalence.equivalent and self.interval.high < margin
            return RunVerdict.EQUIVALENT if within else RunVerdict.NOT_WORSE
        return RunVerdict.UNDECIDED


@dataclass(frozen=True, slots=True)
class Flip:
    """A question on which the runs differ.

    Answers, states and `diverges` (see `ds4eval.compare.pairs.first_divergence`) are of the first
    repeat that one run got right and the other did not.
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
class RunComparison:
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
    header_only : list of str
        A line where a run does not tell files with equal headers apart.
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
    header_only: list[str] = field(default_factory=list)
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
    def same(self) -> bool:
        """Whether every reply of the one run is that of the other."""
        return bool(self.answers) and self.same_replies == self.answers

    @property
    def verdict(self) -> RunVerdict | None:
        if self.overall is None:
            return None
        return RunVerdict.SAME if self.same else self.overall.verdict

    def regressed(self, max_regression: float) -> bool:
        """Whether B lost more than `max_regression` (a share), and significantly.

        Both are asked for: a loss within noise is no regression, and a proven loss that is
        small enough was allowed.
        """
        line = self.overall
        return (
            line is not None
            and line.verdict is RunVerdict.WORSE
            and line.interval.estimate < -max_regression
        )

    def exit_code(self, max_regression: float | None = None, strict: bool = False) -> int:
        """Status of a gate; `strict` also fails unless B is shown not to be worse by the margin."""
        if self.unlike:
            return exits.INCOMPARABLE
        if max_regression is not None and self.regressed(max_regression):
            return exits.REGRESSION
        line = self.overall
        if strict and line is not None and not line.equivalence.not_inferior:
            worse = line.verdict is RunVerdict.WORSE
            return exits.REGRESSION if worse else exits.INCONCLUSIVE
        return exits.PARTIAL if self.unfinished_a or self.unfinished_b else exits.OK
