"""Keeps results of many sweeps in one SQLite file, and reads them as series over commits.

A sweep is stored once, however often it is added and in how many parts; of each cell the median is
kept. Who judges a series is `ds4bench.compare.changes`; who lists and prunes, `trends`.

user_version history:
    1  runs and points
    2  runs.sweep: when the sweep's journal was begun, so that a run that was completed later takes
       the place of its earlier part
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median

from ds4bench.compare.changes import Change, changes
from ds4bench.compare.samples import METRICS, Key, facts, row_logs
from ds4bench.records.rows import SweepResult
from ds4bench.records.words import SERIES
from engine.errors import EngineError, StoreError
from engine.files.regular import kind_of
from engine.tooling.results.typed import HEX, Rules, typed

MIGRATIONS = (
    """
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY,
        digest TEXT NOT NULL UNIQUE,
        setup TEXT NOT NULL,
        commit_id TEXT NOT NULL,
        dirty INTEGER,
        at REAL NOT NULL,
        facts TEXT NOT NULL,
        source TEXT NOT NULL
    );
    CREATE INDEX runs_by_setup ON runs (setup, at, id);
    CREATE TABLE points (
        run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
        metric TEXT NOT NULL,
        mode TEXT NOT NULL,
        ctx_tokens INTEGER NOT NULL,
        prefill_tokens INTEGER NOT NULL,
        rate REAL NOT NULL CHECK (rate > 0),
        samples INTEGER NOT NULL,
        PRIMARY KEY (run_id, metric, mode, ctx_tokens, prefill_tokens)
    ) WITHOUT ROWID;
    """,
    "ALTER TABLE runs ADD COLUMN sweep REAL",
)
APPLICATION_ID = 0x64733462  # "ds4b": another program's database is not ours to migrate

# Databases are handed on like other files, and SQLite holds columns to no type.
RULES = Rules(words={"metric": METRICS}, patterns={"mode": SERIES, "setup": HEX})


@dataclass(frozen=True, slots=True)
class Past:
    """One point of a series: a run's commit, its time (seconds since 1970), its median rate."""

    commit: str
    at: float
    rate: float


@dataclass(frozen=True, slots=True)
class Series:
    """One cell over time, oldest first, with its change points."""

    key: Key
    points: tuple[Past, ...]
    changes: tuple[Change, ...]


@contextlib.contextmanager
def open_history(path: Path) -> Iterator[sqlite3.Connection]:
    """Open or create a history, migrated to this version.

    Raises
    ------
    StoreError
        If it is no history, is newer, is locked, or cannot be written.
    """
    # SQLite would wait for ever on a FIFO, and hides what it cannot open.
    if path.exists() and not path.is_file():
        kind = kind_of(path.stat().st_mode)
        raise StoreError(f"{path}: expected a regular file, found {kind}")
    try:
        connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: expected a database, found {error}") from error
    try:
        with contextlib.closing(connection):
            _migrate(connection, path)
            yield connection
    except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: expected a readable database, found {error}") from error


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    # Last: whoever made the tables that were just seen has made its mark in the same transaction.
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    if owner != APPLICATION_ID and (tables or version):
        raise StoreError(f"{path}: expected a ds4-bench history, found another database")
    if version > len(MIGRATIONS):
        raise StoreError(f"{path}: expected version 1 to {len(MIGRATIONS)}, found {version}")
    if version == len(MIGRATIONS):
        return
    # Schema and version change together, or not at all; another process may have been faster.
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        for script in MIGRATIONS[version:]:
            for statement in script.split(";"):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def digest(run: SweepResult) -> str:
    """Hash of what a run measured; journal and Parquet file of one sweep have the same."""
    measured = [
        [
            *(r.run, r.series, r.ctx_tokens, r.prefill_tokens, r.gen_tokens, r.status),
            *(_exact(r.prefill_s), _exact(r.gen_s), r.token_hash),
        ]
        for r in run.rows
    ]
    return hashlib.sha256(json.dumps(measured).encode()).hexdigest()


def _exact(value: float | None) -> str | None:
    return None if value is None else float(value).hex()


def setup_of(run: SweepResult) -> str:
    """Hash of everything that two runs must share to lie on one curve."""
    known = facts(run.environment)
    if not known:
        raise EngineError(
            f"{run.source}: expected a journal or Parquet file, which say what was measured, "
            "found bare rates"
        )
    # A window of 16 tokens is slower than one of 128: the first step weighs more.
    known["gen_tokens"] = sorted({row.gen_tokens for row in run.good})
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:32]


def add(connection: sqlite3.Connection, run: SweepResult) -> bool:
    """Store a run; False if it is there already, alone or as part of a longer one.

    A sweep that was resumed takes the place of what was stored of it before.

    Raises
    ------
    EngineError
        If the run does not say on what it was measured, or has no finished row.
    """
    setup = setup_of(run)
    rates: dict[Key, list[float]] = defaultdict(list)
    for row in run.good:
        for key, log_rate in row_logs(row).items():
            rates[key].append(math.exp(log_rate))
    if not rates:
        raise EngineError(f"{run.source}: expected at least one finished row, found none")
    code = run.environment.get("code") or {}
    dirty = code.get("dirty")
    stored = Stored(setup, str(code.get("commit") or ""), started_at(run), _begun(run), rates)
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not stored.make_room(connection, digest(run)):
            connection.execute("ROLLBACK")
            return False
        cursor = connection.execute(
            "INSERT INTO runs (digest, setup, commit_id, dirty, at, facts, source, sweep) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO NOTHING",
            (
                digest(run),
                setup,
                stored.commit,
                None if dirty is None else int(dirty),
                stored.at,
                json.dumps(facts(run.environment), sort_keys=True),
                str(run.source),
                stored.sweep,
            ),
        )
        added = cursor.rowcount == 1
        if added:
            connection.executemany(
                "INSERT INTO points VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (cursor.lastrowid, *astuple(k), median(values), len(values))
                    for k, values in rates.items()
                ],
            )
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return added


@dataclass(frozen=True, slots=True)
class Stored:
    """A run that is to be stored, beside what may be stored of the same sweep already.

    Attributes
    ----------
    setup, commit : str
    at : float
        Of its earliest row, seconds since 1970.
    sweep : float or None
        When its journal was begun; None where the record does not say.
    rates : dict
        Rates of every cell.
    """

    setup: str
    commit: str
    at: float
    sweep: float | None
    rates: dict[Key, list[float]]

    def make_room(self, connection: sqlite3.Connection, new_digest: str) -> bool:
        """Remove earlier parts of this sweep; False where a longer part is there."""
        earlier = connection.execute(
            "SELECT id, digest, sweep FROM runs WHERE setup = ? AND commit_id = ? "
            "AND (at = ? OR sweep = ?)",
            (self.setup, self.commit, self.at, self.sweep),
        ).fetchall()
        for run_id, known, sweep in earlier:
            if known == new_digest:
                continue
            points = {
                Key(*key): samples
                for *key, samples in connection.execute(
                    "SELECT metric, mode, ctx_tokens, prefill_tokens, samples FROM points "
                    "WHERE run_id = ?",
                    (run_id,),
                )
            }
            mine = {key: len(values) for key, values in self.rates.items()}
            if _within(points, mine) and (points != mine or sweep == self.sweep is not None):
                connection.execute("DELETE FROM runs WHERE id = ?", (run_id,))
            elif _within(mine, points) and points != mine:
                return False
        return True


def _within(part: dict[Key, int], whole: dict[Key, int]) -> bool:
    return all(count <= whole.get(key, 0) for key, count in part.items())


def _begun(run: SweepResult) -> float | None:
    value = run.environment.get("started_at")
    return float(value) if isinstance(value, (int, float)) else None


def started_at(run: SweepResult) -> float:
    """When a run began: its earliest row, else the time of its file."""
    times = [row.started_at for row in run.rows if row.started_at is not None]
    if times:
        return min(times)
    try:
        return Path(run.source).stat().st_mtime
    except OSError:
        return 0.0


def series(
    connection: sqlite3.Connection, setup: str, keep: Callable[[Key], bool] = lambda key: True
) -> list[Series]:
    """Cells of one set-up over time, with change points; dirty trees are left out."""
    rows = connection.execute(
        "SELECT p.metric, p.mode, p.ctx_tokens, p.prefill_tokens, r.commit_id, r.at, p.rate "
        "FROM points p JOIN runs r ON r.id = p.run_id "
        "WHERE r.setup = ? AND coalesce(r.dirty, 0) = 0 ORDER BY r.at, r.id",
        (setup,),
    ).fetchall()
    cells: dict[Key, list[Past]] = defaultdict(list)
    for n, (metric, mode, ctx, prefill, commit, at, rate) in enumerate(rows, 1):
        cell = {"metric": metric, "mode": mode, "ctx_tokens": ctx, "prefill_tokens": prefill}
        where = f"history: point {n} of set-up {setup[:8]}"
        past = typed(Past, {"commit": commit, "at": at, "rate": rate}, RULES, where)
        cells[typed(Key, cell, RULES, where)].append(past)
    out = []
    for key in sorted(filter(keep, cells), key=lambda k: (k.order, k.prefill_tokens)):
        points = _per_commit(cells[key])
        found = changes([p.rate for p in points])
        out.append(Series(key, tuple(points), tuple(found)))
    return out


def _per_commit(points: list[Past]) -> list[Past]:
    """One point per stretch of a commit: the median of its runs, at its first time."""
    out: list[list[Past]] = []
    for point in points:
        if out and point.commit and out[-1][0].commit == point.commit:
            out[-1].append(point)
        else:
            out.append([point])
    return [Past(g[0].commit, g[0].at, median(p.rate for p in g)) for g in out]
