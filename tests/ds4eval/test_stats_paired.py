"""Paired statistics: published figures, scipy, enumeration, simulated error rates."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from ds4eval.stats import paired
from ds4eval.stats import scores as stats

# Two published 92-question runs: n, right in A, right in B, A only, B only, exact p, A - B and
# its Newcombe interval in points, paired and unpaired standard error, correlation.
PUBLISHED = {
    "GPQA": (25, 20, 21, 1, 2, 1.000, -4.0, -21.0, 12.7, 7.0, 11.1, 0.60),
    "SuperGPQA": (25, 21, 22, 0, 1, 1.000, -4.0, -18.5, 9.4, 4.0, 10.0, 0.85),
    "AIME": (25, 21, 18, 4, 1, 0.375, 12.0, -7.1, 30.7, 8.8, 11.8, 0.46),
    "COMPSEC": (17, 17, 16, 1, 0, 1.000, 5.9, -13.2, 27.0, 5.9, 5.9, None),
    "All": (92, 79, 77, 6, 4, 0.754, 2.2, -5.2, 9.7, 3.5, 5.3, 0.58),
    "All, strict grade": (92, 78, 74, 7, 3, 0.344, 4.3, -2.9, 11.8, 3.4, 5.6, 0.63),
}


def newcombe(both, a_only, b_only, neither):
    """The interval of two runs of one repeat that have these four counts."""
    a = [1] * (both + a_only) + [0] * (b_only + neither)
    b = [1] * both + [0] * a_only + [1] * b_only + [0] * neither
    return paired.difference(a, b)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_pairs(name):
    n, right_a, right_b, a_only, b_only, p, diff, low, high, *_ = PUBLISHED[name]
    both = right_a - a_only
    assert right_b == both + b_only
    # The published difference is A - B; ours is second minus first.
    found = newcombe(both, b_only, a_only, n - both - a_only - b_only)
    figures = (100 * found.estimate, 100 * found.low, 100 * found.high)
    assert figures == pytest.approx((diff, low, high), abs=0.051)  # printed to one decimal
    assert paired.mcnemar(a_only, b_only) == pytest.approx(p, abs=0.00051)


@pytest.mark.parametrize("a_only,b_only", [(0, 0), (0, 1), (3, 3), (6, 4), (0, 6), (40, 61)])
def test_mcnemar_equals_scipys_binomial_test(a_only, b_only):
    n = a_only + b_only
    expected = scipy_stats.binomtest(a_only, n, 0.5).pvalue if n else 1.0
    assert paired.mcnemar(a_only, b_only) == pytest.approx(expected, rel=1e-10)
    assert paired.mcnemar(b_only, a_only) == paired.mcnemar(a_only, b_only)


def test_mid_p_is_smaller_except_on_ties():
    assert paired.mcnemar(6, 4, mid_p=True) < paired.mcnemar(6, 4)
    for tie in range(5):
        assert paired.mcnemar(tie, tie, mid_p=True) == 1.0
    law = scipy_stats.binom(10, 0.5)
    assert paired.mcnemar(1, 9, mid_p=True) == pytest.approx(2 * law.cdf(0) + law.pmf(1))


def test_five_differing_questions_can_never_be_significant():
    assert paired.least_p(5) == paired.mcnemar(0, 5) > 0.05 > paired.least_p(6)
    assert paired.least_p(6) == paired.mcnemar(6, 0)
    assert paired.least_p(0) == 1.0


def test_newcombe_interval_turns_with_its_runs():
    there, back = newcombe(70, 6, 4, 12), newcombe(70, 4, 6, 12)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


@pytest.mark.parametrize("counts", [(25, 0, 0, 0), (0, 0, 0, 25), (20, 0, 0, 5), (1, 0, 0, 0)])
def test_equal_runs_keep_an_interval_of_some_width(counts):
    found = newcombe(*counts)
    assert found.estimate == 0 and found.low < -0.005 and found.high > 0.005


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="one length, found 2 and 1"):
        paired.difference([1, 0], [1])
    with pytest.raises(ValueError, match="found 0 and 0"):
        paired.difference([], [])


def simulated(rng, law, n, k, redrawn, dropped, runs):
    """Means of two runs whose chances agree but for redrawn and (in B) dropped questions."""
    alpha, beta = law
    chance_a = rng.beta(alpha, beta, (runs, n))
    chance_b = np.where(rng.random((runs, n)) < redrawn, rng.beta(alpha, beta, (runs, n)), chance_a)
    chance_b = np.where(rng.random((runs, n)) < dropped, 0.0, chance_b)
    true = -dropped * alpha / (alpha + beta)
    return rng.binomial(k, chance_a) / k, rng.binomial(k, chance_b) / k, true


SITUATIONS = [(0.0, 0.0), (0.1, 0.0), (0.1, 0.05), (1.0, 0.0)]


@pytest.mark.parametrize("n", [30, 92, 198])
@pytest.mark.parametrize("k", [1, 4])
def test_difference_covers_at_least_nominally(n, k):
    """Documented side: conservative where the runs agree on most questions; never a point below."""
    rng = np.random.default_rng(7)
    for law in ((0.4, 0.1), (1, 1), (0.9, 0.1), (1.9, 0.1)):
        for redrawn, dropped in SITUATIONS:
            a, b, true = simulated(rng, law, n, k, redrawn, dropped, 1500)
            low, high = paired.difference_bounds(a, b, k)
            coverage = np.mean((low <= true + 1e-12) & (true - 1e-12 <= high))
            # 1500 runs have an error of 0.56 points; two of them below one point under nominal.
            assert coverage >= 0.94 - 0.011, (law, redrawn, dropped, coverage)


def test_difference_is_within_a_point_where_runs_are_unlike():
    rng = np.random.default_rng(8)
    for n in (92, 198):
        a, b, true = simulated(rng, (1, 1), n, 4, 1.0, 0.0, 4000)
        low, high = paired.difference_bounds(a, b, 4)
        assert np.mean((low <= true) & (true <= high)) == pytest.approx(0.95, abs=0.01 + 0.0035)


def test_student_interval_equals_scipy():
    rng = np.random.default_rng(9)
    d = rng.integers(-4, 5, 40) / 4
    expected = scipy_stats.ttest_1samp(d, 0).confidence_interval(0.95)
    found = paired.student(d)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert paired.student([0.5]).low == -math.inf


def test_bootstrap_of_differences_covers_within_a_point():
    rng = np.random.default_rng(10)
    held = []
    a, b, true = simulated(rng, (1, 1), 60, 4, 0.3, 0.0, 1000)
    for d in b - a:
        low, high = stats.bootstrap_bounds(d, resamples=1000)
        held.append(low <= true <= high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.01 + 0.007)  # simulation error 0.7 points
    found = paired.bootstrap(b[0] - a[0], seed=3)
    assert (found.low, found.high) == stats.bootstrap_bounds(b[0] - a[0], seed=3)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_permutation_is_the_share_of_all_sign_patterns(steps):
    found = paired.permutation([Fraction(s, 4) for s in steps])
    patterns = list(itertools.product((-1, 1), repeat=len(steps)))
    hits = sum(abs(sum(s * d for s, d in zip(p, steps))) >= abs(sum(steps)) for p in patterns)
    assert found.exact and found.p_value == pytest.approx(hits / len(patterns), abs=1e-12)


def test_permutation_equals_scipy_and_mcnemar():
    rng = np.random.default_rng(11)
    d = rng.integers(-3, 5, 14) / 4
    oracle = scipy_stats.permutation_test(
        (d, np.zeros(14)), lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples", vectorized=True, n_resamples=np.inf,
    )  # fmt: skip
    assert paired.permutation(d.tolist()).p_value == pytest.approx(oracle.pvalue, abs=1e-10)
    for a_only, b_only in ((6, 4), (0, 1), (7, 3), (5, 5)):
        steps = [-1] * a_only + [1] * b_only + [0] * 30
        assert paired.permutation(steps).p_value == pytest.approx(paired.mcnemar(a_only, b_only))


def test_drawn_permutations_agree_with_exact_ones(monkeypatch):
    rng = np.random.default_rng(12)
    steps = [Fraction(int(v), 16) for v in rng.integers(-6, 9, 60)]
    exact = paired.permutation(steps)
    monkeypatch.setattr(paired, "_EXACT_LIMIT", 0)
    drawn = paired.permutation(steps)
    assert exact.exact and not drawn.exact
    # 20,000 patterns: four standard errors of a share.
    assert drawn.p_value == pytest.approx(
        exact.p_value, abs=4 * math.sqrt(exact.p_value / 20_000) + 1e-4
    )
    assert drawn.p_value > 0  # never zero: the observed pattern is one of them


def test_permutation_false_alarms_stay_below_five_per_cent():
    rng = np.random.default_rng(13)
    a, b, _ = simulated(rng, (1, 1), 40, 4, 0.3, 0.0, 1500)
    p = [paired.permutation([Fraction(round(4 * v), 4) for v in d]).p_value for d in b - a]
    # Sums move in quarter steps, so the test is a little conservative; three standard errors.
    assert 0.02 < np.mean(np.array(p) < 0.05) <= 0.05 + 0.017


def test_equivalence_is_its_intervals_inversion():
    rng = np.random.default_rng(14)
    a = (rng.random(500) < 0.8).astype(float)
    b = a.copy()
    b[np.flatnonzero(a == 1)[:5]] = 0.0
    b[np.flatnonzero(a == 0)[:4]] = 1.0
    found = paired.equivalence(a, b, 0.03)
    assert found.equivalent and found.not_inferior
    assert found.p_value < 0.05
    at_p = paired.difference(a, b, 1, 1 - 2 * found.p_value)
    assert max(abs(at_p.low), abs(at_p.high)) == pytest.approx(0.03, abs=1e-6)
    assert paired.equivalence(a, b, 0.005).p_value > 0.05
    assert not paired.equivalence(a, b, 0.005).equivalent


def test_absence_of_a_difference_is_not_equivalence():
    a = [1.0] * 20 + [0.0] * 5
    found = paired.equivalence(a, a, 0.03)
    assert not found.equivalent and found.p_value > 0.05
    assert paired.equivalence(a, [0.0] * 25, 0.03).p_value == 0.5


def test_equivalence_is_seldom_claimed_at_its_margin():
    """At a true difference of exactly the margin the claim is false; five per cent are allowed."""
    rng = np.random.default_rng(15)
    a = rng.random((8000, 400)) < 0.8
    u = rng.random((8000, 400))
    b = (a & (u >= 0.10)) | (~a & (u < 0.15))  # loses 8 points, gains 3: net -5
    low, high = paired.difference_bounds(a.astype(float), b.astype(float), 1, 0.90)
    claimed = (low > -0.05) & (high < 0.05)  # what `Equivalence.equivalent` asks for
    assert claimed.mean() <= 0.05 + 0.005  # two standard errors of simulation
    assert claimed.mean() > 0.02  # and the test is no idle one


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1])
def test_impossible_margins_are_refused(margin):
    with pytest.raises(ValueError, match="margin"):
        paired.equivalence([1.0], [1.0], margin)


def test_equivalence_equals_scipys_two_t_tests_where_samples_are_large():
    """With many repeats and questions the interval is Student's, and so are the tests."""
    rng = np.random.default_rng(16)
    a, b, _ = simulated(rng, (2, 2), 3000, 16, 0.3, 0.0, 1)
    found = paired.equivalence(a[0], b[0], 0.015, 16)
    d = b[0] - a[0]
    expected = max(
        scipy_stats.ttest_1samp(d, -0.015, alternative="greater").pvalue,
        scipy_stats.ttest_1samp(d, 0.015, alternative="less").pvalue,
    )
    assert found.p_value == pytest.approx(expected, rel=0.15, abs=1e-4)


def test_holm_by_hand_and_against_its_definition():
    assert paired.holm([0.01, 0.04, 0.03, 0.2]) == pytest.approx([0.04, 0.09, 0.09, 0.2])
    assert paired.holm([]) == []
    rng = np.random.default_rng(17)
    p = rng.random(8)
    rejected = []
    for rank, i in enumerate(np.argsort(p)):
        if p[i] > 0.3 / (8 - rank):
            break
        rejected.append(int(i))
    assert [i for i, q in enumerate(paired.holm(p)) if q <= 0.3] == sorted(rejected)


DETECTABLE = {
    30: (None, None, None, 27.5),
    92: (None, 9.5, 13.5, 17.0),
    198: (4.5, 6.5, 9.5, 11.5),
    500: (3.0, 4.5, 6.0, 7.5),
    2000: (1.5, 2.5, 3.0, 3.5),
}


@pytest.mark.parametrize("n", DETECTABLE)
def test_detectable_differences_as_published(n):
    for share, expected in zip((0.05, 0.10, 0.20, 0.30), DETECTABLE[n]):
        found = paired.detectable(n, share)
        assert (None if found is None else 100 * found) == pytest.approx(expected)


def test_power_equals_simulation():
    rng = np.random.default_rng(18)
    n, share, net = 92, 0.2, 0.135
    draws = rng.multinomial(n, [(share + net) / 2, (share - net) / 2, 1 - share], size=20_000)
    kinds, counts = np.unique(draws[:, :2], axis=0, return_counts=True)
    p = np.array([paired.mcnemar(int(x), int(y)) for x, y in kinds])
    simulated_power = counts[p < 0.05].sum() / 20_000
    assert paired.mcnemar_power(n, share, net) == pytest.approx(simulated_power, abs=0.01)
    assert paired.detectable(92, 0.0) is None


def test_detectable_mean_has_its_power():
    n, se = 60, 0.02
    effect = paired.detectable_mean(se, n)
    law = scipy_stats.nct(n - 1, effect / se)
    critical = scipy_stats.t.ppf(0.975, n - 1)
    assert law.sf(critical) + law.cdf(-critical) == pytest.approx(0.80, abs=0.01)
    assert paired.detectable_mean(0.0, 60) is None
    assert paired.detectable_mean(math.nan, 1) is None
