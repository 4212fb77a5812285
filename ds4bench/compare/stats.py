"""Estimates, intervals and three-way verdicts over log throughput ratios. Arrays in, values out.

Every effect is a difference of natural logarithms of a rate (tokens per second), head minus
base, so -0.03 is about three per cent slower and effects of both directions weigh alike.
The unit of replication is one whole sweep in a fresh process; frontiers of one sweep share the
machine's mood and must be averaged (`curve_differences`) or judged apart, never pooled.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats

from engine.tooling.report.intervals import Interval

CONFIDENCE = 0.95
ERROR = (1 - CONFIDENCE) / 2  # one-sided: of "regressed" over a whole report, and of each bound
# A report is wrong if any line of it is, so its families share ERROR. Curves decide when sampling
# stops and get most of it; a loss at one frontier alone is rarer and, where it matters, larger.
CURVE_SHARE = 0.8
CELL_SHARE = 1 - CURVE_SHARE
POWER = 0.80
MIN_VERDICT = 5  # samples per arm (or pairs) below which a cell is described, not judged
MIN_BCA = 20  # below this the bootstrap's false alarms are two to three times nominal
MIN_PAIRS = 6
MAX_PAIRS = 40
STOP_HALF_WIDTH = 0.01
TOLERANCES = {
    "prefill": 0.03,
    "decode": 0.02,
    "decode_mtp": 0.05,  # acceptance moves with content, see tokens per step
    "steps": 0.02,
}
# Without an interval, only a loss that no noise explains is a verdict: beyond this many standard
# deviations of one pair on this machine, as calibrated, or as assumed where it never was.
FAR_TIMES = 10.0
ASSUMED_SIGMA = 0.025
UNPAIRED_FACTOR = 2.0  # without interleaving, drift is confounded with the arm


class Verdict(enum.Enum):
    """What a gate says of one cell."""

    REGRESSED = "regressed"
    FINE = "fine"
    INCONCLUSIVE = "inconclusive"
    DESCRIBED = "described"  # too few samples for any verdict
    FAR_SLOWER = "far slower"  # too few samples for an interval, and a loss beyond any noise
    OUTPUTS = "outputs differ"  # other tokens were emitted: speed is not the question

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean log effect with what a t interval needs.

    `sigma` is the standard deviation of one pair's difference (paired) or of one sample
    (unpaired, pooled); `n` is pairs, or the smaller arm.
    """

    mean: float
    se: float
    df: float
    n: int
    sigma: float
    paired: bool

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        if self.n < 2:
            return Interval(self.mean, -math.inf, math.inf)
        reach = _t_quantile(self.df, 0.5 + confidence / 2) * self.se
        return Interval(self.mean, self.mean - reach, self.mean + reach)

    def p_below(self, threshold: float) -> float:
        """One-sided p value of "the true effect is not below `threshold`"."""
        if self.n < 2:
            return 1.0
        if self.se == 0.0:
            return 0.0 if self.mean < threshold else 1.0
        return float(special.stdtr(self.df, (self.mean - threshold) / self.se))

    def p_two_sided(self) -> float:
        """p value of "no effect at all"."""
        if self.n < 2:
            return 1.0
        if self.se == 0.0:
            return 1.0 if self.mean == 0.0 else 0.0
        return float(2 * special.stdtr(self.df, -abs(self.mean) / self.se))

    def mde(self, power: float = POWER, confidence: float = CONFIDENCE) -> float:
        """Smallest true |effect| that a two-sided test would see with probability `power`."""
        if self.n < 2:
            return math.inf
        return self.se * _noncentrality(round(self.df, 2), power, confidence)


@lru_cache(maxsize=4096)
def _t_quantile(df: float, p: float) -> float:
    return float(special.stdtrit(df, p))


@lru_cache(maxsize=1024)
def _noncentrality(df: float, power: float, confidence: float) -> float:
    critical = _t_quantile(df, 0.5 + confidence / 2)

    def shortfall(delta: float) -> float:
        # Far out, scipy's series gives NaN for a probability that is 0 to double precision.
        missed = special.nctdtr(df, delta, critical) - special.nctdtr(df, delta, -critical)
        return (1 - power) - (0.0 if math.isnan(missed) else float(missed))

    return float(optimize.brentq(shortfall, 0.0, 20 + 3 * critical, xtol=1e-6))


def mde_of(sigma: float, n: int, power: float = POWER, confidence: float = CONFIDENCE) -> float:
    """Minimum detectable effect of `n` pairs whose log ratio has standard deviation `sigma`."""
    if n < 2:
        return math.inf
    return sigma / math.sqrt(n) * _noncentrality(float(n - 1), power, confidence)


def paired(differences: Sequence[float] | np.ndarray) -> Estimate:
    """Student's estimate of the mean of paired log differences (head minus base)."""
    d = np.asarray(differences, dtype=np.float64)
    n = d.size
    sigma = float(d.std(ddof=1)) if n > 1 else math.nan
    if n > 1 and sigma < 1e-12 * max(1.0, float(np.abs(d).max())):
        sigma = 0.0  # equal values leave a rounding residue that is no evidence of anything
    return Estimate(
        float(d.mean()), sigma / math.sqrt(n) if n > 1 else math.nan, n - 1.0, n, sigma, True
    )


def unpaired(
    base_logs: Sequence[float] | np.ndarray, head_logs: Sequence[float] | np.ndarray
) -> Estimate:
    """Welch's estimate of the difference of means of log rates of two separate runs."""
    a = np.asarray(base_logs, dtype=np.float64)
    b = np.asarray(head_logs, dtype=np.float64)
    n = min(a.size, b.size)
    effect = float(b.mean() - a.mean())
    if n < 2:
        return Estimate(effect, math.nan, 0.0, n, math.nan, False)
    va, vb = float(a.var(ddof=1)) / a.size, float(b.var(ddof=1)) / b.size
    floor = (1e-12 * max(1.0, float(np.abs(a).max()), float(np.abs(b).max()))) ** 2
    total = va + vb
    if total < floor:
        return Estimate(effect, 0.0, float(a.size + b.size - 2), n, 0.0, False)
    df = total**2 / (va**2 / (a.size - 1) + vb**2 / (b.size - 1))
    sigma = math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    return Estimate(effect, math.sqrt(total), df, n, float(sigma), False)


@lru_cache(maxsize=128)
def _signed_rank_counts(n: int) -> tuple[int, ...]:
    """How many of the 2^n sign patterns give each rank sum 0..n(n+1)/2."""
    counts = [1]
    for rank in range(1, n + 1):
        grown = counts + [0] * rank
        for i, c in enumerate(counts):
            grown[i + rank] += c
        counts = grown
    return tuple(counts)


def hodges_lehmann(
    differences: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE
) -> Interval | None:
    """Median of Walsh averages with the exact Wilcoxon signed-rank interval.

    Returns None where even the widest interval cannot have the asked confidence (n < 6 for
    95 per cent): the smallest two-sided p value of n pairs is 2^(1-n).
    """
    d = np.asarray(differences, dtype=np.float64)
    n = d.size
    if n == 0:
        return None
    i, j = np.triu_indices(n)
    walsh = np.sort((d[i] + d[j]) / 2)
    tail = (1 - confidence) / 2 * 2.0**n
    total, k = 0, 0
    for count in _signed_rank_counts(n):
        total += count
        if total > tail * (1 + 1e-12):
            break
        k += 1
    if k == 0:
        return None
    return Interval(float(np.median(walsh)), float(walsh[k - 1]), float(walsh[-k]))


def bca(
    differences: Sequence[float] | np.ndarray, seed: int = 0, confidence: float = CONFIDENCE
) -> Interval | None:
    """Bias-corrected accelerated bootstrap of the mean; None below 20 pairs or without spread."""
    d = np.asarray(differences, dtype=np.float64)
    if d.size < MIN_BCA or paired(d).sigma == 0.0:
        return None
    found = stats.bootstrap(
        (d,),
        np.mean,
        n_resamples=10_000,
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(d.mean()), float(found.low), float(found.high))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjusted p values: family-wise error for gates."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * (p.size - np.arange(p.size))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> np.ndarray:
    """Adjusted p values that bound the false discovery rate: for tables that explore."""
    p = np.asarray(p_values, dtype=np.float64)
    return stats.false_discovery_control(p, method="bh") if p.size else p


@dataclass(frozen=True, slots=True)
class Judgement:
    """A cell's estimate and what may be said of it. Effects are log differences."""

    verdict: Verdict
    estimate: Estimate
    interval: Interval  # unadjusted for other cells; over all looks, where sampling was adaptive
    adjusted_high: float  # Holm's upper bound: regressed if below -tolerance
    tolerance: float
    mde: float
    p_value: float  # two-sided, of no effect, unadjusted

    @property
    def faster(self) -> bool:
        return self._judged and self.interval.low > 0

    @property
    def slower(self) -> bool:
        """Shown to be slower than base at all, within the tolerance or beyond it."""
        return self._judged and self.interval.high < 0

    @property
    def decided(self) -> bool:
        return self.verdict in (Verdict.REGRESSED, Verdict.FINE)

    @property
    def _judged(self) -> bool:
        return self.verdict not in (Verdict.DESCRIBED, Verdict.FAR_SLOWER)


def judge(
    estimates: Sequence[Estimate],
    tolerances: Sequence[float],
    error: float = ERROR,
    share: float = 1.0,
    sigmas: Sequence[float] | None = None,
) -> list[Judgement]:
    """Judge one family of gate cells against their tolerances (fractions, e.g. 0.02).

    Regressed: Holm's upper bound lies below -tolerance. Fine: the unadjusted lower bound lies
    above it. Everything else is inconclusive; fewer than five samples give no interval, and a
    verdict only where the loss is far beyond the machine's noise.
    The tolerance is read as a ratio: 0.02 allows a head rate of 0.98 times base.

    Parameters
    ----------
    error : float
        One-sided error of each interval's bounds, and so of "fine". A look at data that may still
        grow spends a part of `ERROR` only (`ds4bench.ab.looks`).
    share : float
        Part of `error` that "regressed" may spend in this family.
    sigmas : sequence of float, optional
        Noise of one pair of each cell, where it was calibrated.
    """
    limits = [math.log1p(-t) for t in tolerances]
    sigmas = sigmas or [ASSUMED_SIGMA] * len(estimates)
    judged: list[Judgement] = []
    able = [i for i, e in enumerate(estimates) if e.n >= MIN_VERDICT]
    p = {i: estimates[i].p_below(limits[i]) for i in able}
    still_rejecting = True
    highs: dict[int, float] = {}
    regressed: set[int] = set()
    for rank, i in enumerate(sorted(able, key=lambda i: (p[i], i))):
        level = error * share / (len(able) - rank)
        highs[i] = estimates[i].interval(1 - 2 * level).high
        still_rejecting = still_rejecting and p[i] <= level and highs[i] < limits[i]
        if still_rejecting:
            regressed.add(i)
    for i, estimate in enumerate(estimates):
        # Of too few samples it only describes, and no look is spent on it.
        interval = estimate.interval(1 - 2 * (error if i in highs else ERROR))
        if i not in highs:
            far = estimate.mean < limits[i] - FAR_TIMES * sigmas[i]
            verdict = Verdict.FAR_SLOWER if far else Verdict.DESCRIBED
        elif i in regressed:
            verdict = Verdict.REGRESSED
        elif interval.low > limits[i]:
            verdict = Verdict.FINE
        else:
            verdict = Verdict.INCONCLUSIVE
        judged.append(
            Judgement(
                verdict,
                estimate,
                interval,
                highs.get(i, math.inf),
                tolerances[i],
                estimate.mde(),
                estimate.p_two_sided(),
            )
        )
    return judged


def overall(curves: Sequence[Judgement], cells: Sequence[Judgement] = ()) -> Verdict:
    """One word for a report: curves decide, and a single regressed frontier is enough."""
    verdicts = [j.verdict for j in curves]
    for bad in (Verdict.REGRESSED, Verdict.FAR_SLOWER):
        if bad in verdicts or any(c.verdict is bad for c in cells):
            return bad
    if not verdicts or all(v is Verdict.DESCRIBED for v in verdicts):
        return Verdict.DESCRIBED
    if all(v is Verdict.FINE for v in verdicts):
        return Verdict.FINE
    return Verdict.INCONCLUSIVE


def enough(
    judgements: Sequence[Judgement],
    half_width: float = STOP_HALF_WIDTH,
    min_pairs: int = MIN_PAIRS,
    max_pairs: int = MAX_PAIRS,
) -> bool:
    """Whether sampling may stop: every cell decided or narrow.

    Each call is a look; judgements must have been made with what that look may spend, or looking
    often would find something at last.

    Narrow is a half-width of at most `half_width` and a quarter of the cell's tolerance. With
    half of it, a single noisy frontier that is truly 3 per cent slower was left undecided at six
    pairs in 28 per cent of simulated sessions.
    """
    if not judgements:
        return False
    n = min(j.estimate.n for j in judgements)
    if n >= max_pairs:
        return True
    if n < max(min_pairs, MIN_VERDICT):
        return False
    return all(
        j.decided or j.interval.half_width <= min(half_width, j.tolerance / 4) for j in judgements
    )


def curve_differences(base: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Mean over frontiers of log(head / base), one value per pair.

    Parameters
    ----------
    base, head : float64 arrays of shape (n_pairs, n_frontiers)
        Rates in tokens per second. Pooling the frontiers of a sweep as if they were samples
        gives 63 per cent false alarms; their mean is one sample.
    """
    means: np.ndarray = (np.log(head) - np.log(base)).mean(axis=1)
    return means


def drift(values: Sequence[float], slots: Sequence[float]) -> tuple[float, float]:
    """Kendall's tau and p value of an arm's values against time slots: a warning, no gate."""
    v = np.asarray(values, dtype=np.float64)
    if v.size < 4 or np.ptp(v) == 0:
        return 0.0, 1.0
    found = stats.kendalltau(slots, v)
    return float(found.statistic), float(found.pvalue)


def abba(n_pairs: int, seed: int) -> list[str]:
    """Order of `n_pairs` pairs, "AB" or "BA" each: ABBA blocks, first letter at random.

    Linear drift cancels within every two pairs. A later pair of the list does not depend on
    how many follow, so that a stopped or resumed session keeps its order.
    """
    first = "AB" if np.random.default_rng(seed).integers(2) == 0 else "BA"
    return [first if i % 2 == 0 else first[::-1] for i in range(n_pairs)]
