"""A sweep that was stored in parts is one run, and one bad commit hides no step."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ds4bench.compare import history
from ds4bench.compare.changes import changes, without_outliers
from ds4bench.records.files import read_rows
from ds4bench.records.rows import SweepResult
from engine.tooling import exits
from tests.ds4bench.speed_rows import ENVIRONMENT, FINGERPRINT, sweep


def run(rows, at=5.0, commit="c0", **environment):
    rows = tuple(replace(r, started_at=at + i) for i, r in enumerate(rows))
    code = {"code": {"commit": commit, "dirty": False}, "fingerprint": FINGERPRINT}
    return SweepResult(rows, {**ENVIRONMENT, **code, **environment}, Path("memory"))


def stored(database):
    return database.execute("SELECT count(*) FROM runs").fetchone()[0]


@pytest.mark.parametrize("begun", [{}, {"started_at": 4.0}])
def test_a_run_that_was_completed_later_takes_the_place_of_its_part(tmp_path, begun):
    rows = sweep(runs=3)
    with history.open_history(tmp_path / "h.db") as db:
        assert history.add(db, run(rows[:6], **begun))
        assert history.add(db, run(rows[:11], **begun))
        assert history.add(db, run(rows, **begun))
        assert stored(db) == 1
        assert not history.add(db, run(rows[:6], **begun)), "a part of what is there"
        assert not history.add(db, run(rows, **begun))
        assert stored(db) == 1
        samples = {n for (n,) in db.execute("SELECT samples FROM points")}
        assert samples == {3}
        # Points of what was replaced are gone, too.
        assert db.execute("SELECT count(DISTINCT run_id) FROM points").fetchone() == (1,)


def test_a_retried_row_replaces_the_run(tmp_path):
    rows = sweep(runs=1)
    slow = [replace(rows[0], gen_s=9.0), *rows[1:]]
    with history.open_history(tmp_path / "h.db") as db:
        assert history.add(db, run(slow, started_at=4.0))
        assert history.add(db, run(rows, started_at=4.0))
        assert stored(db) == 1


def test_other_sweeps_of_the_same_second_stay(tmp_path):
    with history.open_history(tmp_path / "h.db") as db:
        assert history.add(db, run(sweep(runs=2, seed=1)))
        assert history.add(db, run(sweep(runs=2, seed=2)))
        assert history.add(db, run(sweep(runs=1, seed=3), commit="c1"))
        assert stored(db) == 3


def test_a_history_of_the_first_version_goes_on(tmp_path):
    path = tmp_path / "h.db"
    with contextlib.closing(sqlite3.connect(path)) as old, old:
        old.executescript(history.MIGRATIONS[0])
        old.execute(f"PRAGMA application_id = {history.APPLICATION_ID}")
        old.execute("PRAGMA user_version = 1")
    rows = sweep(runs=2)
    with history.open_history(path) as db:
        history.add(db, run(rows[:6]))
        db.execute("UPDATE runs SET sweep = NULL")
        assert history.add(db, run(rows, started_at=4.0))
        assert stored(db) == 1


def test_a_resumed_sweep_knows_when_it_was_begun(bench):
    line = ("--ctx-start", "100", "--step-incr", "100", "-n", "4", "--out", "o")
    assert bench(*line, "--ctx-max", "100").exit_code == exits.OK
    before = read_rows(bench.folder / "o").environment["started_at"]
    assert bench(*line, "--ctx-max", "200", "--resume").exit_code == exits.OK
    assert read_rows(bench.folder / "o").environment["started_at"] == before
    assert read_rows(bench.folder / "o" / "sweep.parquet").environment["started_at"] == before


@pytest.mark.parametrize("place", range(14))
@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_one_outlier_hides_no_step_of_five_per_cent(place, factor):
    """Seven commits a side. Beside the step, the outlier cannot be told from its other side."""
    rng = np.random.default_rng(5)
    levels = np.repeat([100.0, 95.0], 7) * rng.lognormal(0, 0.003, 14)
    assert [c.index for c in changes(levels)] == [7]
    levels[place] *= factor
    [change] = changes(levels)
    assert change.index == 7 or (place in (6, 7) and change.index in (6, 8))
    assert change.effect == pytest.approx(-0.05, abs=0.01)


def test_one_outlier_is_no_step():
    rng = np.random.default_rng(6)
    for place in range(0, 30, 3):
        level = 100 * rng.lognormal(0, 0.004, 30)
        level[place] *= 0.6
        assert changes(level) == []


def test_a_level_of_three_points_is_no_outlier():
    steps = np.log(np.array([100.0] * 9 + [90.0] * 3))
    assert (without_outliers(steps) == steps).all()
    ramp = np.log(100 * 0.97 ** np.arange(12))
    assert (without_outliers(ramp) == ramp).all()
    lone = np.log(np.array([100.0, 101, 100, 50, 100, 101, 100]))
    assert np.exp(without_outliers(lone)[3]) == pytest.approx(100)
    short = np.log(np.array([100.0, 50, 100]))
    assert (without_outliers(short) == short).all()
