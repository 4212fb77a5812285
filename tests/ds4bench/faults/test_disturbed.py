"""Rows in which something compiled, stalled, slept or throttled: flagged, and measured again."""

from __future__ import annotations

import pytest

from ds4bench.records.files import read_rows
from ds4bench.records.rows import DISTURBED, STATUSES, Telemetry
from ds4bench.sweep.disturbed import STALL_FACTOR, STALL_S, trouble_of
from ds4bench.telemetry import sampler as telemetry
from ds4bench.telemetry.sampler import STANDSTILL_S, TelemetrySampler
from engine.tooling import exits
from engine.tooling.results.journal import scan
from tests.ds4bench.sweeps import SIZE, measured, table

CLEAN = [(100, "ok"), (200, "ok"), (300, "ok"), (400, "ok")]


def written(folder):
    """Context and status of every row record of a journal, in order of writing."""
    records, _ = scan((folder / "o" / "rows.jsonl").read_bytes())
    return [(r["ctx_tokens"], r["status"]) for r in records if r.get("kind") == "row"]


@pytest.mark.parametrize(("fault", "status"), [("compile", "compiled"), ("stall", "stalled")])
def test_a_disturbed_window_is_flagged_and_measured_once_more(bench, fault, status):
    """Faults 2 and 10: such a row was as good as any."""
    assert bench(*SIZE, "--out", "clean").exit_code == 0
    bench.faults(**{fault: {"mode": "plain", "ctx": 200}}, once="struck")
    result = bench(*SIZE, "--out", "o")

    assert result.exit_code == exits.OK, result.stderr
    assert f"plain at 200 (run 1): {status}, " in result.stderr
    assert "to be measured once more" in result.stderr
    assert written(bench.folder) == [CLEAN[0], (200, status), *CLEAN[1:]]
    assert [(r.ctx_tokens, r.status) for r in read_rows("o").rows] == CLEAN
    assert measured("o/sweep.parquet").equals(measured("clean/sweep.parquet"))


def test_a_disturbed_prefill_is_measured_again_before_anything_is_decoded(bench):
    assert bench(*SIZE, "--mode", "all", "--out", "clean").exit_code == 0
    bench.faults(compile={"mode": "prefill", "ctx": 200}, once="struck")
    assert bench(*SIZE, "--mode", "all", "--out", "o").exit_code == exits.OK
    records, _ = scan((bench.folder / "o" / "rows.jsonl").read_bytes())
    [bad] = [r for r in records if r.get("status") == "compiled"]
    assert bad["ctx_tokens"] == 200 and "gen_s" not in bad and bad["prefill_s"] > 0
    assert measured("o/sweep.parquet").equals(measured("clean/sweep.parquet"))


@pytest.mark.parametrize("fault", ["compile", "stall"])
def test_a_row_that_is_always_disturbed_is_never_trusted(bench, fault):
    bench.faults(**{fault: {"mode": "plain", "ctx": 200}})
    result = bench(*SIZE, "--out", "o")
    assert result.exit_code == exits.PARTIAL
    assert "its speed does not count" in result.stderr
    assert [status for _, status in written(bench.folder)].count("ok") == 3
    assert len(written(bench.folder)) == 5, "once more, and not for ever"
    assert list(table("o/sweep.csv")["ctx_tokens"]) == [100, 300, 400]
    # Resuming leaves it alone unless asked.
    assert bench(*SIZE, "--out", "o", "--resume").exit_code == exits.PARTIAL
    assert len(written(bench.folder)) == 5
    bench.faults()
    assert bench(*SIZE, "--out", "o", "--resume", "--retry-failed").exit_code == exits.OK
    assert [(r.ctx_tokens, r.status) for r in read_rows("o").rows] == CLEAN


def test_a_prefill_that_is_always_disturbed_flags_every_row_behind_it(bench):
    bench.faults(compile={"mode": "prefill", "ctx": 200})
    assert bench(*SIZE, "--mode", "all", "--out", "o").exit_code == exits.PARTIAL
    rows = read_rows("o").rows
    assert {r.status for r in rows if r.ctx_tokens == 200} == {"compiled"}
    assert all(r.ok for r in rows if r.ctx_tokens != 200)
    assert all(r.gen_s for r in rows), "nothing measured is lost"


def test_every_status_is_known():
    assert set(DISTURBED) < set(STATUSES)


@pytest.mark.parametrize(
    ("facts", "compiled", "steps", "status"),
    [
        ({}, 0, (), None),
        ({}, 1, (), "compiled"),
        ({"suspended_s": 3.0}, 0, (), "suspended"),
        ({"stopped_s": 3.0}, 0, (), "stalled"),
        ({"gpu_throttle": "sw-power-cap"}, 0, (), None),  # the owner's own setting: fault 9
        ({"gpu_throttle": "hw-thermal+sw-power-cap"}, 0, (), "throttled"),
        ({"gpu_throttle": ""}, 0, (), None),
        ({}, 0, (0.005,) * 20 + (6.002,), "stalled"),  # fault 10 as it was found
        ({}, 0, (6.002,) + (0.005,) * 20, "stalled"),
        ({}, 0, (0.0625, 0.0625 + STALL_S), None),
        ({}, 0, (0.0625, 0.0626 + STALL_S * STALL_FACTOR), "stalled"),
        ({}, 0, (1.0, 1.0, STALL_FACTOR), None),
        ({}, 0, (1.0, 1.0, STALL_FACTOR + 0.1), "stalled"),
    ],
)
def test_what_counts_as_disturbed(facts, compiled, steps, status):
    found = trouble_of(Telemetry(**facts), compiled, steps)
    assert (found and found.status) == status


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_stopped_process_and_a_gap_of_the_waiting_one_are_noticed(monkeypatch):
    """A prefill has no steps: the waiting process sees that the timed one stands still."""
    state = {"status": "running"}

    class Process:
        def __init__(self, pid):
            assert pid == 7

        def status(self):
            return state["status"]

    monkeypatch.setattr(telemetry.psutil, "Process", Process)
    clock = Clock()
    sampler = TelemetrySampler(None, pid=lambda: 7, clock=clock)
    sampler.begin()
    sampler.enter("prefill")
    clock.now = 1.0
    sampler.tick()
    assert sampler.row().stopped_s is None
    state["status"] = telemetry.psutil.STATUS_STOPPED
    for clock.now in (1.25, 1.5):
        sampler.tick()
    state["status"] = "running"
    clock.now = 1.75
    sampler.tick()
    assert sampler.row().stopped_s == 0.5
    clock.now += STANDSTILL_S
    sampler.tick()
    assert sampler.row().stopped_s == 0.5
    clock.now += STANDSTILL_S + 1  # Ctrl-Z stops both
    sampler.tick()
    assert sampler.row().stopped_s == 0.5 + STANDSTILL_S + 1
    sampler.begin()
    assert sampler.row().stopped_s is None


def test_a_wall_clock_that_jumps_is_taken_for_a_pause(monkeypatch):
    gap = iter([0.0, 100.0, 101.9, 100.0, 102.1, 100.0, 90.0])
    monkeypatch.setattr(telemetry, "_boot_gap", lambda: 5.0)
    monkeypatch.setattr(telemetry, "_wall_gap", lambda: next(gap))
    sampler = TelemetrySampler(None)
    for expected in (None, pytest.approx(2.1), None):
        sampler.begin()
        assert sampler.row().suspended_s == expected


@pytest.mark.parametrize(("system", "name"), [("darwin", "CLOCK_MONOTONIC_RAW"),
                                              ("linux", "CLOCK_BOOTTIME")])  # fmt: skip
def test_sleep_is_read_from_the_clock_that_runs_on(monkeypatch, system, name):
    monkeypatch.setattr(telemetry.sys, "platform", system)
    monkeypatch.setattr(telemetry.time, name, 99, raising=False)
    monkeypatch.setattr(telemetry.time, "monotonic", lambda: 1000.0)
    monkeypatch.setattr(telemetry.time, "clock_gettime", lambda clock: {99: 1300.0}[clock])
    assert telemetry._boot_gap() == 300.0


def test_the_warm_up_reaches_what_longer_contexts_need(bench):
    """Fault 2: it went no further than the first frontier."""
    bench.faults(reach=250)
    assert bench(*SIZE, "--out", "o").exit_code == 0
    rounds = [w["prefill_tokens"] for w in read_rows("o").warmups]
    assert rounds == [400, 100], "at least a chunk, and no more than the sweep itself"
    longer = ("--ctx-start", "600", "--ctx-max", "4000", "--step-incr", "1700", "-n", "8")
    bench.faults(reach=2052)
    assert bench(*longer, "--out", "p").exit_code == 0
    assert [w["prefill_tokens"] for w in read_rows("p").warmups] == [2052, 512]
