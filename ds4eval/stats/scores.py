"""Scores one run: intervals, repeats, chance. Arrays and counts come in, values go out.

The question is the unit: repeats make its mean sharper, and never add a question. Intervals are
about all questions of the same kind; `decoding_se` alone is about these very questions asked
again. What compares two runs stands in `ds4eval.stats.paired`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy import special, stats

from engine.tooling.report.intervals import Interval
from engine.tooling.report.wilson import Bounds, wilson_bounds

CONFIDENCE = 0.95
ABSTAINED = ("", "?")
Values = Sequence[float] | np.ndarray
# With fewer questions than this that are not plainly right (or plainly wrong) every time, their
# spread is not known: at 10, simulated coverage fell to 0.935, and without a limit to 0.85.
MIN_CARRIERS = 12


def z_of(confidence: float) -> float:
    """Two-sided quantile of the normal distribution."""
    return float(special.ndtri(0.5 + confidence / 2))


def wilson(passed: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's interval of a share. Its coverage over all shares averages to `confidence`.

    Coverage at a single share lies above or below that, most of all where fewer than two answers
    are expected to fail.

    Raises
    ------
    ValueError
        If not 0 <= passed <= n with n > 0.
    """
    _check_counts(passed, n)
    p = passed / n
    low, high = wilson_bounds(np.float64(p), np.float64(n), z_of(confidence))
    return Interval(p, float(low), float(high))


def _check_counts(passed: int, n: int) -> None:
    if not 0 <= passed <= n or n == 0:
        raise ValueError(f"counts: expected 0 <= passed <= n and n > 0, found {passed} of {n}")


def clustered_bounds(means: np.ndarray, confidence: float = CONFIDENCE) -> Bounds:
    """Bounds of the mean over questions, from each question's share of right repeats.

    Wilson's bounds at the effective number of answers p(1-p)/SE^2, where SE is the spread of
    question means over the root of their number, with Student's quantile. Where all means are 0
    or 1 (one repeat, or repeats that agree) this is Wilson's interval itself.

    Parameters
    ----------
    means : ndarray (..., n)
        Shares in [0, 1]; the last axis is questions.

    Returns
    -------
    low, high : ndarray (...)
    """
    means = np.asarray(means, dtype=np.float64)
    n = means.shape[-1]
    p = means.mean(axis=-1)
    if n < 2:
        return wilson_bounds(p, np.float64(n), z_of(confidence))
    whole = ((means == 0) | (means == 1)).all(axis=-1)
    variance = means.var(axis=-1, ddof=1) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = np.where(variance > 0, p * (1 - p) / variance, n)
    carriers = np.where(p >= 0.5, (means < 1).sum(axis=-1), (means > 0).sum(axis=-1))
    effective = np.where(carriers < MIN_CARRIERS, np.minimum(effective, n), effective)
    effective = np.where(whole, n, effective)
    quantile = np.where(whole, z_of(confidence), stats.t.ppf(0.5 + confidence / 2, n - 1))
    return wilson_bounds(p, effective, quantile)


def clustered(means: Values, confidence: float = CONFIDENCE) -> Interval:
    """`clustered_bounds` of one run: the headline interval, for any number of repeats.

    Raises
    ------
    ValueError
        If there is no question.
    """
    values = np.asarray(means, dtype=np.float64)
    if not values.size:
        raise ValueError("means: expected at least one question, found none")
    low, high = clustered_bounds(values, confidence)
    return Interval(float(values.mean()), float(low), float(high))


def decoding_se(passed: Sequence[int], repeats: Sequence[int]) -> float | None:
    """Standard error that sampling alone gives the mean over these very questions.

    The root of the sum over questions of s^2/k, over n. None where no question was asked twice:
    one answer says nothing of its own spread.
    """
    c, k = np.asarray(passed, dtype=np.float64), np.asarray(repeats, dtype=np.float64)
    if not k.size or (k < 2).any():
        return None
    share = c / k
    return float(math.sqrt((share * (1 - share) / (k - 1)).sum()) / k.size)


def bootstrap_bounds(
    means: Values, confidence: float = CONFIDENCE, seed: int = 0, resamples: int = 10_000
) -> tuple[float, float]:
    """Bootstrap over questions: percentiles, widened for small samples.

    Plain percentiles of n questions are too narrow by about 1/n and by the normal quantile in
    place of Student's; the tail is taken at Phi(-t sqrt(n/(n-1))) instead (Hesterberg 2015).

    Returns
    -------
    low, high : float
        Infinite for fewer than two questions.
    """
    values = np.asarray(means, dtype=np.float64)
    n = values.size
    if n < 2:
        return -math.inf, math.inf
    t = stats.t.ppf(0.5 + confidence / 2, n - 1)
    tail = float(special.ndtr(-math.sqrt(n / (n - 1)) * t))
    rng = np.random.default_rng(seed)
    # Equal values are drawn by their counts: a run has far fewer kinds of mean than questions.
    kinds, counts = np.unique(values, return_counts=True)
    drawn = rng.multinomial(n, counts / n, size=resamples) @ kinds / n
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that k of n answers, drawn without putting back, hold a right one (Chen 2021).

    1 - C(n-c, k) / C(n, k): unbiased for every k <= n, unlike "any of the first k".

    Raises
    ------
    ValueError
        If not 0 <= correct <= n and 1 <= k <= n.
    """
    if not (0 <= correct <= n and 1 <= k <= n):
        raise ValueError(
            f"pass@k: expected 0 <= correct <= n and 1 <= k <= n, found {correct}, {n}, {k}"
        )
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


def majority(answers: Sequence[str], right: Sequence[bool]) -> float:
    """Share of the vote's winners that are right, for one question.

    The commonest answer wins; '?' and '' abstain; between n equally common answers each wins
    1/n, which is what drawing lots gives on average. Without a single answer the vote is wrong.

    Parameters
    ----------
    answers : sequence of str
        Canonical answers, one per repeat.
    right : sequence of bool
    """
    votes = Counter(a for a in answers if a not in ABSTAINED)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [a for a, count in votes.items() if count == most]
    good = {a for a, ok in zip(answers, right) if ok}
    return sum(a in good for a in winners) / len(winners)


def guess_tail(chances: Sequence[float], passed: int) -> float:
    """Probability that blind guessing passes at least `passed` questions.

    The exact tail of the Poisson binomial distribution: one binomial per distinct chance,
    convolved.
    """
    law = np.ones(1)
    for chance, count in Counter(chances).items():
        law = np.convolve(law, stats.binom.pmf(np.arange(count + 1), count, chance))
    return float(min(1.0, max(0.0, law[passed:].sum()))) if passed > 0 else 1.0


def macro(groups: Sequence[Values], confidence: float = CONFIDENCE) -> Interval:
    """Mean of group means, each group weighing the same, and its interval.

    Each side's distances are added in squares (the MOVER of Zou and Donner 2008), which keeps
    the groups' intervals lopsided where they are: plain normal bounds from the same widths
    covered 93.5 per cent of 95. The groups are the ones there are, not a sample of more.

    Raises
    ------
    ValueError
        If there is no group, or one is empty.
    """
    if not groups:
        raise ValueError("groups: expected at least one, found none")
    parts = [clustered(group, confidence) for group in groups]
    count = len(parts)
    mean = math.fsum(part.estimate for part in parts) / count
    below = math.sqrt(math.fsum((part.estimate - part.low) ** 2 for part in parts)) / count
    above = math.sqrt(math.fsum((part.high - part.estimate) ** 2 for part in parts)) / count
    return Interval(mean, mean - below, mean + above)


def stratified(
    strata: Sequence[Values], population: Sequence[int], confidence: float = CONFIDENCE
) -> Interval:
    """Score of a whole data set from a sample drawn inside each of its strata.

    Strata weigh by their size in the data set, and what was asked of a stratum leaves no doubt
    (finite population correction; Cochran 1977, 5.5-5.6). Wilson's bounds at the effective
    number of answers p(1-p)/SE^2, as in `clustered_bounds`. A stratum with a single answer is
    given the spread of all.

    Parameters
    ----------
    strata : sequence of sequence of float
        Question means by stratum.
    population : sequence of int
        Questions of each stratum in the data set.

    Raises
    ------
    ValueError
        If a stratum is empty, or larger than its population.
    """
    groups = [np.asarray(group, dtype=np.float64) for group in strata]
    sizes = np.asarray(population, dtype=np.float64)
    asked = np.array([group.size for group in groups], dtype=np.float64)
    if asked.size != sizes.size or not asked.size or (asked < 1).any() or (asked > sizes).any():
        raise ValueError(
            "strata: expected at least one answer in each and no more than it has questions, "
            f"found {asked.astype(int).tolist()} of {sizes.astype(int).tolist()}"
        )
    weights = sizes / sizes.sum()
    p = float((weights * [group.mean() for group in groups]).sum())
    spread = np.array([g.var(ddof=1) if g.size > 1 else p * (1 - p) for g in groups])
    open_share = 1 - asked / sizes
    variance = float((weights**2 * open_share * spread / asked).sum())
    n, unknown = float(asked.sum()), 1 - float(asked.sum() / sizes.sum())
    if unknown == 0:
        return Interval(p, p, p)
    failures = sum(int((g < 1).sum() if p >= 0.5 else (g > 0).sum()) for g in groups)
    effective = p * (1 - p) / variance if variance > 0 else n / unknown
    if failures < MIN_CARRIERS:
        effective = min(effective, n / unknown)
    low, high = wilson_bounds(np.float64(p), np.float64(effective), z_of(confidence))
    return Interval(p, float(low), float(high))
