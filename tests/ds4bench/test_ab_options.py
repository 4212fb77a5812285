"""Options of `ds4-bench ab` reach the session that measures; see test_ab.py for the session."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from ds4bench.ab import noise
from ds4bench.commands.ab import ab_command
from ds4bench.commands.calibrate import calibrate_command
from engine.errors import EngineError
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


class Broken(FakeSweeps):
    """Three sweeps, then a failure."""

    def __call__(self, letter, folder):
        if len(self.calls) == 3:
            raise EngineError("sweep: expected an answer, found none")
        super().__call__(letter, folder)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (ab_command, ["--a", FAKE, "--b", FAKE, "--max-load", "100", "--max-pairs", "6"]),
        (calibrate_command, ["--pairs", "6", "--max-load", "100"]),
    ],
)
def test_resume_goes_on_with_the_session_in_the_folder(tmp_path, monkeypatch, command, options):
    """The seed is taken from the session, too; without --resume the folder is refused."""
    monkeypatch.setattr(noise, "folder", lambda: tmp_path / "data")
    sweeps = [Broken(), FakeSweeps(), FakeSweeps(noise=0.002)]
    last = sweeps[-1]
    monkeypatch.setattr("ds4bench.ab.process.sweep_runner", lambda plan, signals: sweeps.pop(0))

    def run(*more):
        result = CliRunner().invoke(command, ["--out", str(tmp_path / "s"), *options, *more])
        return result.exit_code, result.output

    assert run()[0] == exits.ERROR
    status, said = run()
    assert status == exits.USAGE and "expected a new folder" in said
    status, said = run("--resume")
    assert status == exits.OK, said
    # Seven pairs in all, of which the first session finished one.
    assert len(last.calls) == 2 * 7 - 2
