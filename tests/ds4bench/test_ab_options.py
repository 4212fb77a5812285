"""Options of `ds4-bench ab` reach the session that measures; see test_ab.py for the session."""

from __future__ import annotations

import pytest

from engine.tooling import exits
from tests.ds4bench.test_ab import FAKE, FakeSweeps, ab


@pytest.mark.parametrize(("more", "pairs"), [((), 6), (("--min-pairs", "8"), 8)])
def test_command_measures_the_fewest_pairs(tmp_path, monkeypatch, more, pairs):
    sweeps = FakeSweeps(noise=0.002)
    monkeypatch.setattr("ds4bench.ab.process.sweep_runner", lambda plan, signals: sweeps)

    result = ab(tmp_path, "--a", FAKE, "--b", FAKE, *more)

    assert result.exit_code == exits.OK, result.output
    assert f" {pairs} pairs" in result.output
    assert len(sweeps.calls) == 2 * (pairs + 1), "one pair more is discarded"


def test_command_gives_each_side_its_own_options(tmp_path, monkeypatch):
    plans = []

    def runner(plan, signals):
        plans.append(plan)
        return FakeSweeps(noise=0.002)

    monkeypatch.setattr("ds4bench.ab.process.sweep_runner", runner)
    ab(tmp_path, "--a", FAKE, "--b", FAKE, "--a-args", "-t 1", "--b-args", "-t 2", "--", "-n", "8")

    assert [plans[0].a.arguments, plans[0].b.arguments] == [
        ("-n", "8", "-t", "1"),
        ("-n", "8", "-t", "2"),
    ]
