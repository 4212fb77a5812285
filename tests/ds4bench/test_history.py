"""The history file and its change points, against planted changes and ruptures."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ds4bench.compare import history
from ds4bench.compare.changes import changes, split_scores
from ds4bench.records.files import read_rows, write_parquet
from ds4bench.records.rows import SweepResult
from engine.errors import EngineError, StoreError
from tests.ds4bench.speed_rows import ENVIRONMENT, FINGERPRINT, sweep, write_journal


def levels(*parts, noise=0.005, seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate([level * rng.lognormal(0, noise, n) for level, n in parts])


def test_energy_statistic_is_its_definition():
    x = np.random.default_rng(1).normal(size=9)
    scores = split_scores(np.abs(x[:, None] - x[None, :]), min_size=2)

    for k in range(2, 8):
        a, b = x[:k], x[k:]
        between = np.mean([abs(p - q) for p in a for q in b])
        pairs = [[abs(p - q) for i, p in enumerate(s) for q in s[:i]] for s in (a, b)]
        energy = 2 * between - np.mean(pairs[0]) - np.mean(pairs[1])
        assert scores[k] == pytest.approx(len(a) * len(b) / 9 * energy)
    assert np.isneginf(scores[[0, 1, 8, 9]]).all()


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (((100, 40),), []),
        (((100, 20), (95, 20)), [20]),
        (((100, 15), (97, 15), (103, 15)), [15, 30]),
        (((100, 44), (90, 4)), [44]),
        (((100, 25), (99.5, 25)), []),  # below the least effect of 1 per cent
    ],
)
def test_planted_changes_are_found_where_they_are(parts, expected):
    found = changes(levels(*parts, noise=0.004))

    assert [c.index for c in found] == expected
    for change, (before, _), (after, _) in zip(found, parts, parts[1:]):
        assert change.effect == pytest.approx(after / before - 1, abs=0.006)
        assert change.p_value <= 0.001


def test_slow_creep_under_every_gate_is_seen():
    creep = 100 * 0.997 ** np.arange(40) * np.random.default_rng(2).lognormal(0, 0.004, 40)
    found = changes(creep)
    assert found and all(c.effect < 0 for c in found)


def test_same_places_as_ruptures():
    ruptures = pytest.importorskip("ruptures", reason="in the test extra")
    for seed in range(4):
        rng = np.random.default_rng(seed)
        cuts = sorted(rng.choice(np.arange(8, 43, 8), 2, replace=False).tolist())
        sizes = np.diff([0, *cuts, 50])
        x = levels(*zip((100, 94, 103), sizes), noise=0.006, seed=seed)

        found = [c.index for c in changes(x)]

        optimal = ruptures.Dynp(model="l2", min_size=3, jump=1).fit(np.log(x)).predict(n_bkps=2)
        assert len(found) == 2
        assert np.abs(np.array(found) - optimal[:-1]).max() <= 1


def test_false_alarms_of_a_quiet_series():
    rng = np.random.default_rng(3)
    alarms = sum(bool(changes(x)) for x in rng.lognormal(0, 0.02, (40, 30)))
    # One in a thousand each: two among forty have probability 0.0008.
    assert alarms <= 1


def test_only_the_window_counts_and_answers_repeat():
    x = levels((50, 30), (100, 50))
    assert changes(x) == []
    y = levels((100, 40), (95, 30))
    assert [c.index for c in changes(y)] == [40]
    assert changes(y) == changes(y)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_values_that_are_no_rates_are_refused(bad):
    with pytest.raises(ValueError, match="expected positive finite"):
        changes([1.0, bad])


def test_short_and_constant_series_have_no_changes():
    assert changes([]) == changes([1.0]) == changes([1.0] * 30) == changes([1, 2, 3, 4, 5]) == []


# --- the file -----------------------------------------------------------------------------------


def run(commit="c0", at=0.0, dirty=False, **kw):
    rows = tuple(replace(r, started_at=at) for r in sweep(**kw))
    code = {"code": {"commit": commit, "dirty": dirty}, "fingerprint": FINGERPRINT}
    return SweepResult(rows, {**ENVIRONMENT, **code}, Path("memory"))


def test_a_run_is_stored_once_whatever_it_is_read_from(tmp_path):
    folder = write_journal(tmp_path / "run", sweep(runs=2))
    journal = read_rows(folder)
    with (tmp_path / "a.parquet").open("wb") as file:
        write_parquet(file, list(journal.rows), journal.environment)

    with history.open_history(tmp_path / "h.db") as db:
        assert history.add(db, journal)
        assert not history.add(db, journal)
        assert not history.add(db, read_rows(tmp_path / "a.parquet"))
        assert db.execute("SELECT count(*) FROM runs").fetchone() == (1,)
        # prefill once, decode twice, steps once, at three frontiers
        assert db.execute("SELECT count(*) FROM points").fetchone() == (12,)


def test_series_are_medians_per_commit_in_order_of_time(tmp_path):
    with history.open_history(tmp_path / "h.db") as db:
        for place in range(24):
            slower = 1.0 if place < 16 else 0.95
            history.add(db, run(f"c{place}", float(place), seed=place, slower=slower))
        history.add(db, run("c23", 24.0, seed=99, slower=0.95))
        history.add(db, run("dirty", 25.0, dirty=True, seed=98, slower=0.5))
        found = history.series(db, history.setup_of(run()))

    decode = [s for s in found if (s.key.metric, s.key.mode) == ("decode", "plain")]
    assert [s.key.ctx_tokens for s in decode] == [2048, 4096, 8192]
    assert [p.commit for p in decode[0].points] == [f"c{i}" for i in range(24)]
    for s in decode:
        [change] = s.changes
        assert change.index == 16 and change.effect == pytest.approx(-0.05, abs=0.006)
    assert all(not s.changes for s in found if s.key.metric == "prefill")


def test_other_set_ups_are_other_series(tmp_path):
    other = run(seed=1)
    other.environment["cpu"] = {"name": "Other", "usable_cores": 2}
    with history.open_history(tmp_path / "h.db") as db:
        history.add(db, run())
        history.add(db, other)
        history.add(db, run("c1", 1.0, seed=2, gen_tokens=16))
        assert all(len(s.points) == 1 for s in history.series(db, history.setup_of(run())))


def test_bare_rates_and_failed_runs_are_refused(tmp_path):
    bare = SweepResult(tuple(sweep()), {}, Path("x.csv"))
    failed = replace(run(), rows=tuple(replace(r, status="error") for r in sweep()))
    with history.open_history(tmp_path / "h.db") as db:
        with pytest.raises(EngineError, match=r"x\.csv: expected a journal or Parquet"):
            history.add(db, bare)
        with pytest.raises(EngineError, match="expected at least one finished row"):
            history.add(db, failed)
        assert db.execute("SELECT count(*) FROM runs").fetchone() == (0,)


def test_foreign_newer_and_broken_files_are_refused_untouched(tmp_path):
    foreign, newer, broken = (tmp_path / n for n in ("f.db", "n.db", "b.db"))
    for path, statement in (
        (foreign, "CREATE TABLE t (x)"),
        (newer, f"PRAGMA application_id = {history.APPLICATION_ID}"),
    ):
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.execute(statement)
            db.execute("PRAGMA user_version = 9")
        db.close()
    broken.write_bytes(b"ctx_tokens,prefill_tokens\n" * 200)

    for path, text in ((foreign, "another database"), (newer, "found 9"), (broken, "not a data")):
        before = path.read_bytes()
        with pytest.raises(StoreError, match=text), history.open_history(path):
            pass
        assert path.read_bytes() == before
    with pytest.raises(StoreError), history.open_history(tmp_path / "no" / "h.db"):
        pass


def test_two_writers_at_once_store_each_run_once(tmp_path):
    path = tmp_path / "h.db"

    def work():
        with history.open_history(path) as db:
            for place in range(8):
                history.add(db, run(f"c{place}", seed=place, runs=1))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with history.open_history(path) as db:
        assert db.execute("SELECT count(*) FROM runs").fetchone() == (8,)
