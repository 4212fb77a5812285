"""Gates exactly on their line: a `>` in place of a `>=`, or the other way, fails here."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ds4bench.ab.noise import Calibration, Floor, refuse_below_floor, store
from ds4bench.ab.process import quiet_machine
from ds4bench.ab.validity import CLOCK_DROP, SWAP_GROWTH, reasons, unfit
from ds4bench.commands.compare import parse_tolerances
from ds4bench.compare.changes import MIN_EFFECT, changes
from ds4bench.compare.samples import Arm
from ds4bench.compare.stats import MIN_VERDICT, Verdict, enough, judge, mde_of, paired
from ds4bench.plan import SweepPlan
from ds4bench.records.rows import SweepResult, Telemetry
from ds4bench.sweep.watchdog import FIRST_TIMEOUT_S, LEAST_TIMEOUT_S, Watchdog
from engine.errors import OptionError
from engine.options import MODES
from tests.ds4bench.speed_rows import ENVIRONMENT, sweep


def verdict_of(loss: float, tolerance: float, n: int = 8) -> Verdict:
    """The verdict on `n` pairs that all lost exactly `loss`."""
    [found] = judge([paired([math.log1p(-loss)] * n)], [tolerance])
    return found.verdict


def test_a_loss_of_exactly_the_tolerance_is_neither_fine_nor_a_regression():
    assert verdict_of(0.02, 0.02) is Verdict.INCONCLUSIVE
    assert verdict_of(0.0199, 0.02) is Verdict.FINE
    assert verdict_of(0.0201, 0.02) is Verdict.REGRESSED


def test_five_samples_are_judged_and_four_described():
    assert MIN_VERDICT == 5
    assert verdict_of(0.0, 0.02, n=5) is Verdict.FINE
    assert verdict_of(0.0, 0.02, n=4) is Verdict.DESCRIBED


def test_sampling_stops_at_the_last_pair_and_at_exactly_the_asked_width():
    [wide] = judge([paired([-0.05, 0.02, 0.01, -0.04, 0.03, -0.01])], [0.02])
    assert wide.verdict is Verdict.INCONCLUSIVE
    assert enough([wide], max_pairs=6) and not enough([wide], max_pairs=7)
    half = wide.interval.half_width
    narrow = replace(wide, tolerance=4 * half)
    assert enough([narrow], half_width=half, min_pairs=6, max_pairs=40)
    assert not enough([narrow], half_width=math.nextafter(half, 0), min_pairs=6, max_pairs=40)
    assert not enough([narrow], half_width=half, min_pairs=7, max_pairs=40)


@pytest.mark.parametrize(
    ("valid", "dropped", "expected"),
    [(7, 3, False), (6, 4, True), (0, 5, False), (4, 2, True), (0, 6, True)],
)
def test_three_dropped_pairs_of_ten_are_still_fit(valid, dropped, expected):
    assert unfit(valid, dropped) is expected


def arm(**telemetry) -> Arm:
    rows = [replace(row, telemetry=Telemetry(**telemetry)) for row in sweep(runs=1, ctx=(2048,))]
    return Arm("x", (SweepResult(tuple(rows), ENVIRONMENT, None),))


def test_clocks_sleep_and_swap_may_reach_their_limits():
    usual = [arm(gpu_sm_mhz=2000.0, cpu_mhz=1000.0)]
    slowest = 2000.0 * (1 - CLOCK_DROP)
    assert not reasons([arm(gpu_sm_mhz=slowest)], usual)
    assert reasons([arm(gpu_sm_mhz=slowest - 1)], usual)
    assert not reasons([arm(cpu_mhz=900.0)], usual) and reasons([arm(cpu_mhz=899.0)], usual)
    assert not reasons([arm(suspended_s=1.0)], []) and reasons([arm(suspended_s=1.1)], [])
    grown = [arm(swap_used_bytes=0), arm(swap_used_bytes=SWAP_GROWTH)]
    assert not reasons(grown, [])
    assert reasons([grown[0], arm(swap_used_bytes=SWAP_GROWTH + 1)], [])


def test_a_tolerance_of_exactly_what_the_machine_can_show_is_taken(tmp_path):
    rows = tuple(sweep(runs=1, ctx=(2048,), modes=("plain",)))
    measured = Arm("x", (SweepResult(rows, ENVIRONMENT, None),))
    from ds4bench.ab.noise import machine_id

    floor = Floor("decode", "plain", 0.004, 8, 0.0)
    store(Calibration(machine_id(ENVIRONMENT), 0.0, (floor,)), tmp_path)
    limit = mde_of(0.004, 12)
    refuse_below_floor({"decode": limit}, measured, 12, tmp_path)
    with pytest.raises(OptionError, match="--tolerance"):
        refuse_below_floor({"decode": math.nextafter(limit, 0)}, measured, 12, tmp_path)


@pytest.mark.parametrize("text", ["0", "100", "decode=0", "-1", "nan"])
def test_tolerances_lie_strictly_between_nothing_and_all(text):
    with pytest.raises(OptionError):
        parse_tolerances([text])
    assert parse_tolerances(["decode=99.9"]) == {"decode": pytest.approx(0.999)}


def test_a_change_of_exactly_the_least_effect_is_reported():
    before, after = 1024.0, 1024.0 * 1.0625  # exact in binary
    series = [before] * 12 + [after] * 12
    [change] = changes(series, min_effect=0.0625)
    assert change.effect == 0.0625
    assert not changes(series, min_effect=0.0626)
    assert MIN_EFFECT == 0.01


def test_load_of_exactly_the_limit_is_quiet_and_patience_ends_on_its_second():
    now = [0.0]
    loads = iter([60.0, 60.0, 25.0])

    def busy() -> float:
        now[0] += 1.0
        return next(loads)

    assert quiet_machine(25.0, 30.0, busy, lambda: now[0])() is None
    now[0], loads = 0.0, iter([60.0, 60.0, 60.0])
    assert "60 %" in str(quiet_machine(25.0, 2.0, busy, lambda: now[0])())
    assert len(list(loads)) == 1, "the second look came at two seconds, which is patience's end"


def test_the_watchdog_waits_ten_times_the_slowest_pace():
    watchdog = Watchdog()
    assert watchdog.limit("plain", 100) == FIRST_TIMEOUT_S == 3600.0
    watchdog.observe("plain", 10, 10.0)
    watchdog.observe("plain", 100, 50.0)  # faster: the slower one counts
    assert watchdog.limit("plain", 100) == pytest.approx(1000.0)
    assert watchdog.limit("plain", 1) == LEAST_TIMEOUT_S == 60.0
    assert watchdog.limit("prefill", 100) == FIRST_TIMEOUT_S, "each kind of work has its own pace"
    watchdog.observe("prefill", 0, 5.0)
    assert watchdog.limit("prefill", 100) == FIRST_TIMEOUT_S, "nothing was done, nothing learned"
    assert Watchdog(5.0).limit("plain", 10**6) == 5.0


def test_modes_rotate_from_run_to_run_at_one_frontier():
    plan = SweepPlan("m", modes=MODES, ctx_start=100, ctx_max=100, repeats=len(MODES))
    cells = list(plan.cells())
    assert [cell.mode for cell in cells[:: len(MODES)]] == list(MODES), (
        "each mode is first in one run"
    )
    assert [plan.order(1, index)[0] for index in range(len(MODES))] == list(MODES), (
        "and at one frontier"
    )
