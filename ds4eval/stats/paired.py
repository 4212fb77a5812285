"""Compares two runs on the same questions: differences, tests, equivalence, power.

A difference is B minus A of the mean share of right answers: positive is for B, 0.01 is one
point. The pair is the question; with repeats, its two means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from scipy import special, stats

from ds4eval.stats.scores import CONFIDENCE, Values, bootstrap_bounds, clustered_bounds
from engine.tooling.report.intervals import Interval
from engine.tooling.report.wilson import Bounds

ALPHA = 1 - CONFIDENCE
POWER = 0.80
MARGIN = 0.03
# Cells of the exact permutation table; beyond this, signs are drawn.
_EXACT_LIMIT = 40_000_000
_DRAWS = 20_000


def mcnemar(a_only: int, b_only: int, *, mid_p: bool = False) -> float:
    """McNemar's exact two-sided p value of the questions that only one run got right.

    Parameters
    ----------
    a_only, b_only : int
    mid_p : bool
        Count the observed split half: less conservative. On a tie the mid-p is 1, where the
        usual formula would exceed or fall short of it.
    """
    n, low = a_only + b_only, min(a_only, b_only)
    if a_only == b_only:
        return 1.0
    p = 2 * float(stats.binom.cdf(low, n, 0.5))
    if mid_p:
        p -= float(stats.binom.pmf(low, n, 0.5))
    return min(1.0, p)


def least_p(discordant: int) -> float:
    """Smallest p value that so many discordant pairs can give: all on one side."""
    return min(1.0, 2.0 ** (1 - discordant))


def difference_bounds(
    a: np.ndarray, b: np.ndarray, repeats: int = 1, confidence: float = CONFIDENCE
) -> Bounds:
    """Bounds of the mean of b - a, from question means; Newcombe's method 10 (1998).

    The bounds of each run (`stats.scores.clustered_bounds`) are combined by the correlation of
    question means, from which 1/(2 n repeats) of covariance is taken for continuity. With one
    repeat this is Newcombe's interval as published; with more it is the same construction
    on clustered bounds.

    Parameters
    ----------
    a, b : ndarray (..., n)
        The same questions in the same order.
    repeats : int
        Answers behind each mean.

    Returns
    -------
    low, high : ndarray (...)
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    n = a.shape[-1]
    mean_a, mean_b = a.mean(axis=-1), b.mean(axis=-1)
    low_a, high_a = clustered_bounds(a, confidence)
    low_b, high_b = clustered_bounds(b, confidence)
    covariance = (a * b).mean(axis=-1) - mean_a * mean_b
    spread = a.std(axis=-1) * b.std(axis=-1)
    eased = np.maximum(covariance - 1 / (2 * n * repeats), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.where(spread > 0, np.where(covariance > 0, eased, covariance) / spread, 0.0)
    down_a, up_a, down_b, up_b = mean_a - low_a, high_a - mean_a, mean_b - low_b, high_b - mean_b
    below = np.sqrt(np.maximum(down_b**2 - 2 * r * down_b * up_a + up_a**2, 0.0))
    above = np.sqrt(np.maximum(up_b**2 - 2 * r * up_b * down_a + down_a**2, 0.0))
    middle = mean_b - mean_a
    return np.maximum(middle - below, -1.0), np.minimum(middle + above, 1.0)


def difference(a: Values, b: Values, repeats: int = 1, confidence: float = CONFIDENCE) -> Interval:
    """`difference_bounds` of one pair of runs.

    Raises
    ------
    ValueError
        If the runs differ in length or are empty.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"pairs: expected two runs of one length, found {len(a)} and {len(b)}")
    low, high = difference_bounds(np.asarray(a), np.asarray(b), repeats, confidence)
    return Interval(float(np.mean(b) - np.mean(a)), float(low), float(high))


def student(differences: Values, confidence: float = CONFIDENCE) -> Interval:
    """Student's interval of paired differences; without bounds below two questions.

    Too narrow where few questions differ (simulated coverage 0.80 to 0.93 of 0.95 with 30
    questions and rare losses), which is why `difference` is the headline.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.size < 2:
        return Interval(float(d.mean()), -math.inf, math.inf)
    reach = stats.t.ppf(0.5 + confidence / 2, d.size - 1) * d.std(ddof=1) / math.sqrt(d.size)
    return Interval(float(d.mean()), float(d.mean() - reach), float(d.mean() + reach))


def bootstrap(differences: Values, confidence: float = CONFIDENCE, seed: int = 0) -> Interval:
    """Bootstrap over questions of paired differences, see `stats.scores.bootstrap_bounds`."""
    low, high = bootstrap_bounds(differences, confidence, seed)
    return Interval(float(np.mean(differences)), low, high)


@dataclass(frozen=True, slots=True)
class Permutation:
    """p value of the sign-flip test; `exact` when all sign patterns were counted."""

    p_value: float
    exact: bool


def permutation(differences: Sequence[Fraction | int | float], seed: int = 0) -> Permutation:
    """Paired permutation test: with no effect, each question's difference may change its sign.

    Differences of means over few repeats are multiples of one small fraction, so the law of
    their signed sum is a product of short polynomials and is computed exactly. Where that would
    be too large, 20,000 sign patterns are drawn and the observed one is counted among them.
    For one repeat this equals McNemar's exact test.

    Parameters
    ----------
    differences : sequence of Fraction
        Floats are taken for the closest fraction with a denominator up to 4096.
    seed : int
        Of drawn patterns.
    """
    steps = [Fraction(d).limit_denominator(4096) for d in differences]
    steps = [s for s in steps if s]
    if not steps:
        return Permutation(1.0, True)
    unit = math.lcm(*(s.denominator for s in steps))
    sizes = np.array([abs(s.numerator) * (unit // s.denominator) for s in steps], dtype=object)
    observed = abs(sum(s.numerator * (unit // s.denominator) for s in steps))
    total = int(sizes.sum())
    if total * len(steps) <= _EXACT_LIMIT:
        return Permutation(_signed_tail([int(s) for s in sizes], observed, total), True)
    rng = np.random.default_rng(seed)
    weights = sizes.astype(np.float64)
    hits = 0
    for _ in range(_DRAWS // 1000):
        signs = rng.integers(0, 2, (1000, len(steps))) * 2.0 - 1.0
        # A half step of slack: sums of equal patterns may differ in their last digit.
        hits += int((np.abs(signs @ weights) >= observed - 0.5).sum())
    return Permutation((hits + 1) / (_DRAWS + 1), False)


def _signed_tail(sizes: list[int], observed: int, total: int) -> float:
    """P(|signed sum| >= observed) with fair signs: law of the sum of those that turn positive."""
    law = np.zeros(total + 1)
    law[0] = 1.0
    reach = 0
    for size in sorted(sizes):
        grown = 0.5 * law[: reach + size + 1]
        grown[size:] += 0.5 * law[: reach + 1]
        reach += size
        law[: reach + 1] = grown
    # Signed sum s and positive part v: s = 2 v - total.
    signed = 2 * np.arange(total + 1) - total
    return float(min(1.0, law[np.abs(signed) >= observed].sum()))


@dataclass(frozen=True, slots=True)
class Equivalence:
    """Two one-sided tests against a margin.

    `interval` has confidence 1 - 2 alpha (90 per cent): inside the margin is equivalent at
    alpha, and its lower bound above -margin alone is not inferior.
    """

    margin: float
    interval: Interval
    p_value: float
    alpha: float = ALPHA

    @property
    def equivalent(self) -> bool:
        return -self.margin < self.interval.low and self.interval.high < self.margin

    @property
    def not_inferior(self) -> bool:
        return self.interval.low > -self.margin


def equivalence(
    a: Values,
    b: Values,
    margin: float = MARGIN,
    repeats: int = 1,
    alpha: float = ALPHA,
) -> Equivalence:
    """Whether B equals A within a margin that was set beforehand.

    The tests are those of `difference`'s interval: the p value is the smallest alpha at which
    the 1 - 2 alpha interval lies inside the margin (0.5 where the difference itself does not).

    Raises
    ------
    ValueError
        If the margin is not in (0, 1).
    """
    if not 0 < margin < 1:
        raise ValueError(f"margin: expected a share between 0 and 1, found {margin}")
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)

    def inside(level: float) -> bool:
        low, high = difference_bounds(first, second, repeats, 1 - 2 * level)
        return bool(-margin < low and high < margin)

    out, within = 0.0, 0.5
    if abs(float(second.mean() - first.mean())) < margin:
        for _ in range(40):
            middle = (out + within) / 2
            if inside(middle):
                within = middle
            else:
                out = middle
    return Equivalence(margin, difference(a, b, repeats, 1 - 2 * alpha), within, alpha)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (1979): the family-wise error stays below alpha."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * (p.size - np.arange(p.size)))
    return [float(v) for v in np.minimum(adjusted, 1.0)]


@lru_cache(maxsize=4096)
def _critical(discordant: int, alpha: float) -> int:
    """Largest smaller side at which McNemar's exact test rejects; -1 where it never does."""
    side = int(stats.binom.ppf(alpha / 2, discordant, 0.5))
    while side >= 0 and 2 * stats.binom.cdf(side, discordant, 0.5) > alpha:
        side -= 1
    return side if 2 * side < discordant else -1


def mcnemar_power(n: int, share: float, net: float, alpha: float = ALPHA) -> float:
    """Power of McNemar's exact test on n questions.

    Parameters
    ----------
    share : float
        Probability that a question is right in one run only.
    net : float
        True difference; at most `share`.
    """
    towards = (share + net) / (2 * share)
    counts = np.arange(1, n + 1)
    weights = stats.binom.pmf(counts, n, share)
    seen = weights > 1e-12
    counts, weights = counts[seen], weights[seen]
    sides = np.array([_critical(int(d), alpha) for d in counts])
    reject = np.where(
        sides >= 0,
        stats.binom.cdf(sides, counts, towards) + stats.binom.cdf(sides, counts, 1 - towards),
        0.0,
    )
    return float((weights * reject).sum())


def detectable(
    n: int, share: float, power: float = POWER, alpha: float = ALPHA, step: float = 0.005
) -> float | None:
    """Smallest net difference that McNemar's exact test sees with `power`, in steps.

    None where not even all discordant questions on one side would be seen.
    """
    if share <= 0 or n < 1:
        return None
    low, high = 0, math.floor(share / step + 1e-9)
    if mcnemar_power(n, share, high * step, alpha) < power:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if mcnemar_power(n, share, middle * step, alpha) < power:
            low = middle
        else:
            high = middle
    return high * step


def detectable_mean(se: float, n: int, power: float = POWER, alpha: float = ALPHA) -> float | None:
    """Smallest difference of means that a paired t test sees with `power`, about.

    SE times the sum of Student's quantiles at 1 - alpha/2 and at `power`: within one per cent
    of the exact value from 20 questions on. None without a spread to go by.
    """
    if n < 2 or not se > 0:
        return None
    return float(se * (stats.t.ppf(1 - alpha / 2, n - 1) + special.stdtrit(n - 1, power)))
