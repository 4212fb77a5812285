"""Estimates against scipy, and decision rules against a simulated noisy machine."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as sp

from ds4bench.compare import stats
from ds4bench.compare.stats import Verdict


@pytest.mark.parametrize("n", [2, 5, 6, 19, 40])
def test_paired_interval_is_scipys(n):
    d = np.random.default_rng(n).normal(0.01, 0.02, n)

    mine = stats.paired(d)

    theirs = sp.ttest_1samp(d, 0.0)
    bounds = theirs.confidence_interval(0.95)
    assert mine.interval().low == pytest.approx(bounds.low, rel=1e-9)
    assert mine.interval().high == pytest.approx(bounds.high, rel=1e-9)
    assert mine.p_two_sided() == pytest.approx(theirs.pvalue, rel=1e-9)
    below = sp.ttest_1samp(d, -0.02, alternative="less").pvalue
    assert mine.p_below(-0.02) == pytest.approx(below, rel=1e-9)


@pytest.mark.parametrize(("n_base", "n_head"), [(2, 3), (5, 5), (7, 20)])
def test_unpaired_interval_is_scipys_welch(n_base, n_head):
    rng = np.random.default_rng(1)
    a, b = rng.normal(3, 0.01, n_base), rng.normal(3.02, 0.05, n_head)

    mine = stats.unpaired(a, b)

    theirs = sp.ttest_ind(b, a, equal_var=False)
    bounds = theirs.confidence_interval(0.95)
    assert mine.interval().low == pytest.approx(bounds.low, rel=1e-9)
    assert mine.interval().high == pytest.approx(bounds.high, rel=1e-9)
    assert mine.p_two_sided() == pytest.approx(theirs.pvalue, rel=1e-9)
    assert mine.n == n_base


@pytest.mark.parametrize("n", [6, 7, 10, 25])
def test_hodges_lehmann_interval_inverts_scipys_exact_wilcoxon(n):
    d = np.random.default_rng(n).normal(0.01, 0.02, n)

    found = stats.hodges_lehmann(d)

    # A shift just inside the interval is not rejected at 5 per cent, just outside it is.
    for inside, outside in (
        (found.low + 1e-9, found.low - 1e-9),
        (found.high - 1e-9, found.high + 1e-9),
    ):
        assert sp.wilcoxon(d - inside, method="exact").pvalue > 0.05
        assert sp.wilcoxon(d - outside, method="exact").pvalue <= 0.05


def test_five_pairs_cannot_have_a_wilcoxon_interval():
    assert stats.hodges_lehmann([0.1, 0.2, 0.3, 0.4, 0.5]) is None
    assert stats.hodges_lehmann([0.1, 0.2, 0.3, 0.4, 0.5], confidence=0.9) is not None


def test_bca_is_withheld_below_twenty_and_agrees_with_t_above():
    d = np.random.default_rng(3).normal(0.0, 0.01, 40)

    assert stats.bca(d[:19]) is None
    assert stats.bca(np.full(30, 0.1)) is None
    found, t = stats.bca(d), stats.paired(d).interval()
    assert found.half_width == pytest.approx(t.half_width, rel=0.12)
    assert stats.bca(d) == found  # seeded


def test_holm_by_hand_and_benjamini_hochberg_by_scipy():
    p = [0.01, 0.04, 0.03, 0.005]

    assert stats.holm(p).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.benjamini_hochberg(p).tolist() == pytest.approx(
        sp.false_discovery_control(p).tolist()
    )
    assert stats.holm([]).size == 0
    assert stats.benjamini_hochberg([]).size == 0


@pytest.mark.parametrize(
    ("n", "sigma", "expected"),
    # bench research: two-sided 5 per cent, power 80 per cent, printed to two digits
    [(3, 0.01, 0.033), (5, 0.01, 0.017), (6, 0.02, 0.029), (10, 0.003, 0.0030), (20, 0.05, 0.033)],
)
def test_minimum_detectable_effect_table(n, sigma, expected):
    assert stats.mde_of(sigma, n) == pytest.approx(expected, rel=0.03)


def test_minimum_detectable_effect_by_simulation():
    rng = np.random.default_rng(5)
    effect = stats.mde_of(0.01, 8)
    d = rng.normal(effect, 0.01, (4000, 8))

    found = sp.ttest_1samp(d, 0.0, axis=1).pvalue < 0.05

    assert found.mean() == pytest.approx(0.80, abs=0.02)  # three standard errors


def test_a_single_pair_claims_nothing():
    one = stats.paired([0.5])

    assert one.interval() == stats.Interval(0.5, -math.inf, math.inf)
    assert (one.p_two_sided(), one.p_below(9.0), one.mde()) == (1.0, 1.0, math.inf)
    [judged] = stats.judge([stats.paired([-0.2] * 4)], [0.02])
    assert judged.verdict is Verdict.DESCRIBED
    # Beyond the tolerance by ten times the noise of a pair: that, no noise explains.
    [judged] = stats.judge([stats.paired([-0.5] * 4)], [0.02])
    assert judged.verdict is Verdict.FAR_SLOWER and not judged.slower
    [judged] = stats.judge([stats.paired([-0.5] * 4)], [0.02], sigmas=[0.05])
    assert judged.verdict is Verdict.DESCRIBED


def test_identical_arms_are_fine_and_a_constant_loss_is_regressed():
    same, slower = stats.paired([0.0] * 6), stats.paired([math.log(0.9)] * 6)

    judged = stats.judge([same, slower], [0.02, 0.02])

    assert [j.verdict for j in judged] == [Verdict.FINE, Verdict.REGRESSED]
    assert not judged[0].faster
    assert same.p_two_sided() == 1.0


def test_verdict_is_three_way():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.004, 12)
    noise -= noise.mean()
    cases = [-0.06, -0.02, 0.0, 0.05]

    judged = [stats.judge([stats.paired(noise + c)], [0.02])[0] for c in cases]

    assert [j.verdict for j in judged] == [
        Verdict.REGRESSED,
        Verdict.INCONCLUSIVE,
        Verdict.FINE,
        Verdict.FINE,
    ]
    assert [j.faster for j in judged] == [False, False, False, True]


def test_overall_word():
    ok, bad, thin = (
        stats.judge([stats.paired(np.asarray(d))], [0.02])[0]
        for d in ([0.0] * 6, [-0.1] * 6, [0.0] * 3)
    )

    assert stats.overall([ok]) is Verdict.FINE
    assert stats.overall([ok], [bad]) is Verdict.REGRESSED
    assert stats.overall([thin]) is Verdict.DESCRIBED
    assert stats.overall([]) is Verdict.DESCRIBED
    assert stats.overall([ok, thin]) is Verdict.INCONCLUSIVE


def test_holm_bound_agrees_with_adjusted_p_values():
    rng = np.random.default_rng(11)
    estimates = [stats.paired(rng.normal(-0.03, 0.012, 8)) for _ in range(12)]

    judged = stats.judge(estimates, [0.02] * 12)

    adjusted = stats.holm([e.p_below(math.log1p(-0.02)) for e in estimates])
    assert [j.verdict is Verdict.REGRESSED for j in judged] == [bool(p <= 0.025) for p in adjusted]
    assert {j.verdict for j in judged} >= {Verdict.REGRESSED, Verdict.INCONCLUSIVE}


# --- a machine that does not exist -------------------------------------------------------------


class FakeMachine:
    """Log throughput under a clock that never ticks: linear drift, AR(1) mood, white noise.

    The research model: drift over the whole session, AR(1) 0.4 per cent with coefficient 0.7,
    white noise 0.6 per cent. Slots are sweeps, in the order that they are run.
    """

    def __init__(self, seed: int, drift: float = 0.01):
        self.rng = np.random.default_rng(seed)
        self.drift = drift

    def slots(self, sessions: int, n_slots: int, cells: int = 1) -> np.ndarray:
        """Noise of shape (sessions, n_slots, cells); drift and mood are common to the cells."""
        mood = np.empty((sessions, n_slots))
        state = self.rng.normal(0, 0.004, sessions)
        for s in range(n_slots):
            mood[:, s] = state
            state = 0.7 * state + self.rng.normal(0, 0.004 * math.sqrt(1 - 0.49), sessions)
        ramp = -self.drift * np.arange(n_slots) / max(n_slots - 1, 1)
        white = self.rng.normal(0, 0.006, (sessions, n_slots, cells))
        return white + (mood + ramp)[:, :, None]

    def pairs(self, sessions: int, n_pairs: int, effect: float, cells: int = 1, order=None):
        """Differences B - A of shape (sessions, n_pairs, cells) in `order` ("AB"/"BA" a pair)."""
        order = order or stats.abba(n_pairs, 0)
        noise = self.slots(sessions, 2 * n_pairs, cells).reshape(sessions, n_pairs, 2, cells)
        sign = np.array([1.0 if o == "AB" else -1.0 for o in order])
        return sign[None, :, None] * (noise[:, :, 1] - noise[:, :, 0]) + effect


def test_false_alarms_per_comparison_at_one_per_cent_drift():
    for n in (6, 10, 12):
        d = FakeMachine(seed=n).pairs(3000, n, 0.0)[:, :, 0]
        alarms = np.mean([stats.paired(row).p_two_sided() < 0.05 for row in d])
        assert alarms <= 0.07


def test_blocked_order_would_cry_wolf():
    # The design that the tool refuses to have, so that the test above is known to be able to fail.
    noise = FakeMachine(seed=1).slots(800, 20)[:, :, 0]
    alarms = np.mean([stats.unpaired(row[:10], row[10:]).p_two_sided() < 0.05 for row in noise])
    assert alarms > 0.25


def test_false_alarms_per_report_of_24_cells():
    """Any cell "regressed" or, without a tolerance, significant after Holm."""
    d = FakeMachine(seed=20).pairs(12000, 10, 0.0, cells=24)

    regressed = 0
    for session in d[:1000]:
        estimates = [stats.paired(c) for c in session.T]
        verdicts = stats.judge(estimates, [0.01] * 24)
        regressed += any(j.verdict is Verdict.REGRESSED for j in verdicts)
    p_values = sp.ttest_1samp(d, 0.0, axis=1).pvalue
    significant = np.mean([stats.holm(p).min() < 0.05 for p in p_values])

    assert regressed <= 2
    assert significant <= 0.05
    assert np.mean((p_values < 0.05).any(axis=1)) > 0.4  # what Holm is for


def test_report_false_alarms_on_the_tolerance_line():
    """The worst null: every cell truly at -tolerance, where an unadjusted gate fails often."""
    effect = math.log1p(-0.02)
    d = FakeMachine(seed=3).pairs(1000, 10, effect, cells=6)

    wrong = 0
    for session in d:
        cells = stats.judge([stats.paired(c) for c in session.T], [0.02] * 6)
        curves = stats.judge([stats.paired(session.mean(axis=1))], [0.02])
        wrong += stats.overall(curves, cells) is Verdict.REGRESSED

    assert wrong / len(d) <= 0.05


def _sequential(differences: np.ndarray, tolerance: float) -> tuple[Verdict, int]:
    for n in range(stats.MIN_PAIRS, len(differences) + 1):
        judged = stats.judge([stats.paired(differences[:n])], [tolerance])
        if stats.enough(judged, max_pairs=len(differences)):
            break
    return judged[0].verdict, n


def test_a_true_loss_of_three_per_cent_is_found_within_twelve_pairs():
    # Decode tolerance, all peeks included; frontiers share the sweep's mood.
    d = FakeMachine(seed=4).pairs(1000, 12, math.log1p(-0.03), cells=6).mean(axis=2)

    outcomes = [_sequential(row, stats.TOLERANCES["decode"]) for row in d]

    found = np.mean([v is Verdict.REGRESSED for v, _ in outcomes])
    assert found >= 0.95


def test_a_single_noisy_frontier_finds_it_against_one_per_cent():
    d = FakeMachine(seed=5).pairs(1000, 12, math.log1p(-0.03))[:, :, 0]

    outcomes = [_sequential(row, 0.01) for row in d]

    assert np.mean([v is Verdict.REGRESSED for v, _ in outcomes]) >= 0.95
    assert np.mean([n for _, n in outcomes]) < 9


def test_stopping_on_a_decision_does_not_inflate_false_alarms():
    d = FakeMachine(seed=6).pairs(1000, 40, 0.0)[:, :, 0]

    outcomes = [_sequential(row, 0.01) for row in d]

    assert np.mean([v is Verdict.REGRESSED for v, _ in outcomes]) <= 0.005
    assert np.mean([v is Verdict.FINE for v, _ in outcomes]) >= 0.95


def test_pooled_frontiers_are_pseudo_replication():
    """Five sweep pairs of 16 frontiers: 80 "samples" cry wolf, five curve means do not."""
    machine = FakeMachine(seed=7)
    # Mood that lasts a whole sweep is what frontiers share.
    mood = machine.rng.normal(0, 0.006, (1500, 5, 1))
    d = mood + machine.rng.normal(0, 0.003, (1500, 5, 16))

    pooled = np.mean([stats.paired(s.ravel()).p_two_sided() < 0.05 for s in d])
    means = np.mean(
        [
            stats.paired(stats.curve_differences(np.ones_like(s), np.exp(s))).p_two_sided() < 0.05
            for s in d
        ]
    )

    assert pooled > 0.4
    assert means <= 0.07


def test_stopping_rule_bounds():
    wide = stats.judge([stats.paired([-0.2, 0.2, -0.2, 0.2, -0.2, 0.2])], [0.02])
    narrow = stats.judge([stats.paired([0.0, 1e-4] * 3)], [0.02])

    assert not stats.enough(wide)
    assert stats.enough(wide, max_pairs=6)
    assert stats.enough(narrow)
    assert not stats.enough(narrow, min_pairs=7)
    assert not stats.enough([])


def test_abba_order_is_seeded_balanced_and_prefix_stable():
    order = stats.abba(12, 3)

    assert order[:6] == stats.abba(6, 3)
    assert order.count("AB") == order.count("BA") == 6
    assert order[0] != order[1] and order[0] == order[2]
    assert {stats.abba(1, s)[0] for s in range(20)} == {"AB", "BA"}


def test_drift_is_kendalls_tau():
    values = [1.0, 1.1, 1.05, 1.2, 1.3, 1.4]

    tau, p = stats.drift(values, range(6))

    assert (tau, p) == pytest.approx(tuple(sp.kendalltau(range(6), values)))
    assert stats.drift([1.0] * 6, range(6)) == (0.0, 1.0)
    assert stats.drift([1.0, 2.0], range(2)) == (0.0, 1.0)
