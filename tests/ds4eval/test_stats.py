"""Statistics against scipy, enumeration and simulation; nothing here knows a run."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from ds4eval.stats import scores as stats

COUNTS = [(0, 1), (1, 1), (0, 25), (25, 25), (1, 30), (29, 30), (79, 92), (140, 198), (1999, 2000)]


@pytest.mark.parametrize("passed,n", COUNTS)
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_intervals_of_a_share_equal_scipy(passed, n, confidence):
    oracle = scipy_stats.binomtest(passed, n)
    expected = oracle.proportion_ci(confidence, "wilson")
    found = stats.wilson(passed, n, confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.estimate == passed / n


@pytest.mark.parametrize("passed,n", [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(passed, n):
    with pytest.raises(ValueError, match="expected 0 <= passed <= n"):
        stats.wilson(passed, n)


# Half-widths in points for shares .5, .8, .9, .97, published to one decimal from shares that are
# not all multiples of 1/n: hence the tolerance of one rounding of the share to a whole count.
PUBLISHED = {
    25: (18.2, 15.1, 12.9, 9.4),
    30: (16.8, 13.9, 11.1, 8.0),
    92: (10.0, 8.0, 6.2, 4.0),
    198: (6.9, 5.6, 4.2, 2.5),
    500: (4.4, 3.5, 2.6, 1.5),
    2000: (2.2, 1.8, 1.3, 0.8),
}


@pytest.mark.parametrize("n", PUBLISHED)
def test_wilson_reproduces_the_published_half_widths(n):
    for share, expected in zip((0.5, 0.8, 0.9, 0.97), PUBLISHED[n]):
        near = [math.floor(share * n), math.ceil(share * n)]
        widths = [100 * stats.wilson(count, n).half_width for count in near]
        assert min(widths) - 0.051 <= expected <= max(widths) + 0.051


def binomial_coverage(interval, n: int, share: float) -> float:
    """Exact coverage: the probability of all counts whose interval holds the share."""
    bounds = [interval(c, n) for c in range(n + 1)]
    held = np.array([b.low <= share <= b.high for b in bounds])
    return float(scipy_stats.binom.pmf(np.arange(n + 1), n, share)[held].sum())


@pytest.mark.parametrize("n", [25, 30, 92, 198])
def test_wilson_covers_on_average(n):
    shares = np.linspace(0.5, 0.985, 98)  # no multiples of 1/n: coverage jumps there
    wilson = [binomial_coverage(stats.wilson, n, p) for p in shares]
    assert np.mean(wilson) == pytest.approx(0.95, abs=0.01)


def test_one_repeat_is_wilson_itself():
    for passed, n in COUNTS:
        means = [1.0] * passed + [0.0] * (n - passed)
        found, expected = stats.clustered(means), stats.wilson(passed, n)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_repeats_that_all_agree_add_nothing():
    """16 equal answers to each of 30 questions are 30 observations, not 480."""
    means = [1.0] * 27 + [0.0] * 3
    assert stats.clustered(means) == stats.wilson(27, 30)


def test_no_question_is_refused():
    with pytest.raises(ValueError, match="at least one question"):
        stats.clustered([])


def drawn_means(rng, alpha, beta, n, k, runs):
    """Question means when each question's chance is drawn from a Beta law."""
    return rng.binomial(k, rng.beta(alpha, beta, (runs, n))) / k


# Beta(.4, .1): most questions always right or always wrong, as exams on one model are.
LAWS = {"bimodal .8": (0.4, 0.1), "bimodal .9": (0.9, 0.1), "flat": (1, 1), "easy .95": (1.9, 0.1),
        "sharp .97": (0.97, 0.03)}  # fmt: skip


@pytest.mark.parametrize("n", [30, 92, 198])
@pytest.mark.parametrize("k", [4, 16])
def test_clustered_interval_covers_the_mean_of_all_questions(n, k):
    """Never more than one point below nominal; above it where few questions ever fail."""
    rng = np.random.default_rng(1)
    runs = 6000  # 0.3 points of simulation error: hence 0.005 of slack
    for name, (alpha, beta) in LAWS.items():
        low, high = stats.clustered_bounds(drawn_means(rng, alpha, beta, n, k, runs))
        true = alpha / (alpha + beta)
        coverage = np.mean((low <= true) & (true <= high))
        assert coverage >= 0.94 - 0.005, (name, coverage)
        if name == "flat":
            assert coverage == pytest.approx(0.95, abs=0.015)


def test_clustered_interval_is_narrower_than_one_repeat_and_wider_than_pooled():
    rng = np.random.default_rng(3)
    means = drawn_means(rng, 1, 1, 100, 16, 1)[0]
    width = stats.clustered(means).half_width
    once = stats.wilson(round(means.sum()), 100).half_width
    pooled = stats.wilson(round(means.sum() * 16), 1600).half_width
    assert pooled < width < once


def test_bootstrap_equals_scipy_at_the_widened_percentiles():
    rng = np.random.default_rng(5)
    means = drawn_means(rng, 1, 1, 40, 4, 1)[0]
    t = scipy_stats.t.ppf(0.975, 39)
    tail = scipy_stats.norm.cdf(-math.sqrt(40 / 39) * t)
    oracle = scipy_stats.bootstrap(
        (means,), np.mean, confidence_level=1 - 2 * tail, method="percentile",
        n_resamples=20_000, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    found = stats.bootstrap_bounds(means, resamples=20_000)
    # Two independent sets of resamples: the tail quantile of 20,000 moves by about this much.
    assert found == pytest.approx((oracle.low, oracle.high), abs=0.006)
    assert stats.bootstrap_bounds(means) == stats.bootstrap_bounds(means)
    assert stats.bootstrap_bounds([0.5]) == (-math.inf, math.inf)


@pytest.mark.parametrize("n", [25, 92])
def test_bootstrap_covers_within_a_point(n):
    rng = np.random.default_rng(2)
    held = []
    for means in drawn_means(rng, 1, 1, n, 4, 1000):
        low, high = stats.bootstrap_bounds(means, resamples=1000)
        held.append(low <= 0.5 <= high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.01 + 0.007)  # simulation error 0.6 points


def test_decoding_error_is_the_spread_of_repeated_runs():
    rng = np.random.default_rng(4)
    chances = rng.uniform(0.1, 0.9, 50)
    runs = rng.binomial(4, chances, (4000, 50))
    estimates = [stats.decoding_se(run, [4] * 50) for run in runs[:500]]
    truth = (runs / 4).mean(axis=1).std()
    # Squares are unbiased; 500 estimates and 4000 runs leave about two per cent.
    assert math.sqrt(np.mean(np.square(estimates))) == pytest.approx(truth, rel=0.04)
    assert stats.decoding_se([1, 0], [1, 2]) is None
    assert stats.decoding_se([], []) is None


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
@settings(max_examples=40, deadline=None)
def test_pass_at_k_is_the_share_of_all_subsets(case):
    n, correct = case
    answers = [True] * correct + [False] * (n - correct)
    for k in range(1, n + 1):
        subsets = list(itertools.combinations(answers, k))
        expected = sum(any(s) for s in subsets) / len(subsets)
        assert stats.pass_at_k(n, correct, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n,correct,k", [(4, 5, 1), (4, 1, 0), (4, 1, 5), (4, -1, 1)])
def test_pass_at_k_refuses_more_than_there_is(n, correct, k):
    with pytest.raises(ValueError, match="pass@k"):
        stats.pass_at_k(n, correct, k)


@pytest.mark.parametrize(
    "answers,right,expected",
    [
        pytest.param("BBC", [1, 1, 0], 1, id="the majority is right"),
        pytest.param("BBC", [0, 0, 1], 0, id="the majority is wrong"),
        pytest.param("BC", [1, 0], 0.5, id="a tie of two is worth half"),
        pytest.param("ABC", [0, 0, 1], 1 / 3, id="a tie of three is worth a third"),
        pytest.param("B???", [1, 0, 0, 0], 1, id="abstentions do not outvote"),
        pytest.param("????", [0, 0, 0, 0], 0, id="nobody voted"),
        pytest.param(["", "C", "C"], [0, 1, 1], 1, id="an empty answer abstains"),
    ],
)
def test_majority(answers, right, expected):
    assert stats.majority(list(answers), [bool(r) for r in right]) == pytest.approx(expected)


def test_guess_tail_equals_binomial_and_enumeration():
    assert stats.guess_tail([0.25] * 25, 12) == pytest.approx(
        scipy_stats.binom.sf(11, 25, 0.25), rel=1e-10
    )
    chances = [0.25, 0.1, 0.1, 0.001, 1 / 9]
    law: Counter = Counter()
    for outcome in itertools.product((0, 1), repeat=5):
        p = math.prod(c if o else 1 - c for c, o in zip(chances, outcome))
        law[sum(outcome)] += p
    for passed in range(7):
        expected = sum(p for count, p in law.items() if count >= passed)
        assert stats.guess_tail(chances, passed) == pytest.approx(expected, abs=1e-12)


def test_macro_weighs_groups_equally():
    found = stats.macro([[1.0] * 90 + [0.0] * 10, [1.0, 0.0] * 15])
    assert found.estimate == pytest.approx(0.7)
    parts = [stats.wilson(90, 100), stats.wilson(15, 30)]
    assert found.estimate - found.low == pytest.approx(
        math.hypot(*(p.estimate - p.low for p in parts)) / 2
    )
    alone, same = stats.macro([[1.0, 0.0, 1.0]]), stats.clustered([1.0, 0.0, 1.0])
    assert (alone.low, alone.high) == pytest.approx((same.low, same.high))
    with pytest.raises(ValueError, match="groups: expected at least one"):
        stats.macro([])


def test_macro_interval_covers_within_a_point():
    rng = np.random.default_rng(6)
    shares = (0.9, 0.6, 0.75)
    held = []
    for _ in range(2000):
        groups = [(rng.random(60) < p).astype(float) for p in shares]
        interval = stats.macro(groups)
        held.append(interval.low <= 0.75 <= interval.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.01 + 0.004)  # simulation error 0.4 points


def test_stratified_by_hand():
    """Two strata, 40 of 100 and 10 of 300 asked: weights 1/4 and 3/4."""
    found = stats.stratified([[1.0] * 30 + [0.0] * 10, [1.0] * 4 + [0.0] * 6], [100, 300])
    assert found.estimate == pytest.approx(0.25 * 0.75 + 0.75 * 0.4)
    first = 0.25**2 * 0.6 * (0.75 * 0.25 * 40 / 39) / 40
    second = 0.75**2 * (29 / 30) * (0.4 * 0.6 * 10 / 9) / 10
    p, effective = found.estimate, found.estimate * (1 - found.estimate) / (first + second)
    low, high = stats.wilson_bounds(np.float64(p), np.float64(effective), stats.z_of(0.95))
    assert (found.low, found.high) == pytest.approx((float(low), float(high)))


def test_stratified_knows_what_was_asked_in_full():
    found = stats.stratified([[1.0, 0.0], [1.0]], [2, 1])
    assert found.low == found.high == pytest.approx(2 / 3)
    part = stats.stratified([[1.0] * 20, [1.0] * 10], [25, 15])
    assert part.estimate == 1.0 and 0.9 < part.low < 1.0  # agreeing answers still leave doubt
    for strata, sizes in (([[1.0], []], [2, 2]), ([[1.0, 1.0]], [1]), ([], []), ([[1.0]], [1, 2])):
        with pytest.raises(ValueError, match="strata: expected at least one answer"):
            stats.stratified(strata, sizes)


def test_stratified_interval_covers_a_finite_population_within_a_point():
    rng = np.random.default_rng(19)
    sizes, asked = [400, 900, 200, 1500], [40, 90, 20, 150]
    whole = [(rng.random(n) < p).astype(float) for n, p in zip(sizes, (0.9, 0.6, 0.3, 0.75))]
    true = np.concatenate(whole).mean()
    held = []
    for _ in range(2500):
        drawn = [rng.choice(part, n, replace=False) for part, n in zip(whole, asked)]
        found = stats.stratified(drawn, sizes)
        held.append(found.low <= true <= found.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.01 + 0.004)  # simulation error 0.4 points
