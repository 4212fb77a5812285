"""Measured bandwidth has a spread, and one that cannot be trusted is the base of nothing."""

from __future__ import annotations

import pandas as pd
import pytest

from ds4bench.records import files
from ds4bench.records.csv_text import to_csv
from ds4bench.report import page
from ds4bench.telemetry.roofline import read_rates
from ds4bench.worker.child import Child
from ds4bench.worker.facts import Bandwidth
from ds4bench.worker.messages import MeasureBandwidth
from engine.tooling import exits

LINE = ("--ctx-start", "100", "--ctx-max", "200", "--step-incr", "100", "-n", "4",
        "--mode", "plain", "--mode", "mtp-strict", "--mtp", "m.gguf")  # fmt: skip


def test_every_pass_is_kept():
    times = iter([0, 9_000, 10_000, 14_000, 20_000, 22_000, 30_000, 33_000])
    rates = read_rates(2, n_bytes=8_000, passes=3, clock=lambda: next(times))
    assert rates == pytest.approx([2e9, 4e9, 8e9 / 3])


def test_two_measurements_become_one():
    both = Bandwidth(3e10, 2, (3e10, 2e10)).joined(Bandwidth(2.5e10, 2, (2.5e10,)))
    assert both == Bandwidth(3e10, 2, (3e10, 2e10, 2.5e10))


@pytest.mark.parametrize(
    ("rates", "unsteady"),
    [([], False), ([3e10], False), ([3e10, 2.9e10, 2.4e10], False), ([2.98e10, 1.24e10], True),
     ([2.98e10, 1.24e10, 1.3e10], True)],
)  # fmt: skip
def test_a_usual_pass_far_below_the_best_is_unsteady(rates, unsteady):
    assert files.unsteady(rates) is unsteady
    environment = {"bandwidth": {"read_bytes_per_s": max(rates, default=0),
                                 "passes_bytes_per_s": rates}}  # fmt: skip
    expected = None if unsteady or not rates else max(rates)
    assert files.machine_bandwidth(environment) == expected


def test_a_record_of_an_earlier_version_has_one_rate():
    environment = {"bandwidth": {"read_bytes_per_s": 2e10, "threads": 2}}
    assert files.machine_bandwidth(environment) == 2e10
    assert files.bandwidth_text([2e10]) == "20.0 GB/s"


def passes_of(monkeypatch, *measured):
    """Makes the worker measure these passes, one set after the other; returns what is left."""
    left = list(measured)
    request = Child.request

    def asked(self, limit, command):
        reply = request(self, limit, command)
        if isinstance(command, MeasureBandwidth):
            rates = left.pop(0)
            return Bandwidth(max(rates), 2, tuple(rates))
        return reply

    monkeypatch.setattr(Child, "request", asked)
    return left


def test_a_dry_run_says_the_spread(bench, monkeypatch):
    left = passes_of(monkeypatch, [2.98e10, 2.9e10], [2.92e10, 2.6e10])
    result = bench(*LINE, "--dry-run")
    assert result.exit_code == exits.OK and left == []
    assert "bandwidth 29.8 GB/s (best of 4 passes; median 29.1, lowest 26.0)" in result.stdout


def test_a_sweep_measures_twice_and_flags_what_does_not_repeat(bench, monkeypatch):
    passes_of(monkeypatch, [1.24e10, 1.3e10], [2.98e10, 1.2e10])
    result = bench(*LINE, "--out", "o")
    assert result.exit_code == exits.OK
    assert "warning: memory bandwidth: 29.8 GB/s" in result.stderr and "unsteady" in result.stderr
    run = files.read_rows(bench.folder / "o")
    assert run.environment["bandwidth"]["passes_bytes_per_s"] == [1.24e10, 1.3e10, 2.98e10, 1.2e10]
    table = pd.read_csv(bench.folder / "o" / "sweep.csv")
    assert table["pct_bandwidth"].isna().all() and (table["bytes_per_step"] > 0).all()
    facts = dict(page.circumstances(run))
    assert facts["Memory bandwidth, measured"].endswith("unsteady: shares of it are left out")
    assert "Bandwidth" not in [column.name for column in page.rows_table(run).columns]


def test_a_steady_rate_is_the_base_of_a_column(bench, monkeypatch):
    passes_of(monkeypatch, [1e10, 0.99e10], [0.98e10, 1e10])
    result = bench(*LINE, "--out", "o")
    assert result.exit_code == exits.OK and "unsteady" not in result.stderr
    table = pd.read_csv(bench.folder / "o" / "sweep.csv")
    assert (table["pct_bandwidth"] > 0).all()
    assert to_csv(list(files.read_rows(bench.folder / "o").rows), False)
