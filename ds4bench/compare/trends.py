"""Lists, shows and prunes a history, and writes its series for other programs.

Series and change points are `ds4bench.compare.history`'s; drawings are `ds4bench.report.trends`'s.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ds4bench.compare.history import RULES, Series, series
from ds4bench.compare.samples import LATENCIES, Key
from engine.errors import OptionError
from engine.tooling.results.typed import Rules, object_of, typed

# What a series' rate means: latencies are stored as their inverses.
UNITS = {"prefill": "tokens/s", "decode": "tokens/s", "steps": "steps/s"}
ENTRY_RULES = Rules(text={"source": 1 << 16, "facts": 1 << 20})


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a stored run and the median of its rates."""

    metric: str
    mode: str
    ctx_tokens: int
    samples: int
    rate: float


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored run; `facts` are those that make its set-up."""

    id: int
    at: float
    commit: str
    dirty: bool | None
    setup: str
    cells: int
    source: str
    facts: dict[str, Any]

    @property
    def day(self) -> str:
        return time.strftime("%Y-%m-%d %H:%M", time.gmtime(self.at))

    @property
    def machine(self) -> str:
        return str(self.facts.get("gpu") or self.facts.get("cpu") or "unknown machine")


def entries(connection: sqlite3.Connection) -> list[Entry]:
    """Every run, oldest first."""
    rows = connection.execute(
        "SELECT r.id, r.at, r.commit_id, r.dirty, r.setup, count(p.run_id), r.source, r.facts "
        "FROM runs r LEFT JOIN points p ON p.run_id = r.id GROUP BY r.id ORDER BY r.at, r.id"
    )
    found = []
    for i, at, commit, dirty, setup, cells, source, text in rows:
        where = f"history: run {i}"
        record = {
            "id": i, "at": at, "commit": commit, "setup": setup, "cells": cells, "source": source,
            "dirty": None if dirty is None else bool(dirty),
            "facts": object_of(str(text).encode("utf-8", "replace"), f"{where}: facts"),
        }  # fmt: skip
        found.append(typed(Entry, record, ENTRY_RULES, where))
    return found


def entry(connection: sqlite3.Connection, number: int) -> Entry:
    """The run of a number.

    Raises
    ------
    OptionError
        If there is none.
    """
    for found in entries(connection):
        if found.id == number:
            return found
    raise OptionError(f"--run: expected the number of a stored run (history list), found {number}")


def points(connection: sqlite3.Connection, number: int) -> list[tuple[str, str, int, int, float]]:
    """Metric, mode, context, samples and rate of a run's cells, in the order of tables."""
    names = ("metric", "mode", "ctx_tokens", "samples", "rate")
    rows = connection.execute(
        "SELECT metric, mode, ctx_tokens, samples, rate FROM points WHERE run_id = ? "
        "ORDER BY metric, mode, ctx_tokens",
        (number,),
    )
    cells = (typed(Cell, dict(zip(names, row)), RULES, f"history: run {number}") for row in rows)
    return [(c.metric, c.mode, c.ctx_tokens, c.samples, c.rate) for c in cells]


def chosen_to_prune(
    found: Sequence[Entry], numbers: Sequence[int], before: float | None, keep: int | None
) -> list[Entry]:
    """The runs that were named, are older than a time, or are not among the latest of a set-up."""
    known = {e.id for e in found}
    for number in numbers:
        if number not in known:
            raise OptionError(f"--run: expected the number of a stored run, found {number}")
    gone = {e.id for e in found if e.id in numbers or (before is not None and e.at < before)}
    if keep is not None:
        by_setup: dict[str, list[Entry]] = {}
        for e in found:
            by_setup.setdefault(e.setup, []).append(e)
        gone |= {e.id for group in by_setup.values() for e in group[: max(0, len(group) - keep)]}
    return [e for e in found if e.id in gone]


def prune(connection: sqlite3.Connection, gone: Sequence[Entry]) -> None:
    """Remove runs and give their space back."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany("DELETE FROM runs WHERE id = ?", [(e.id,) for e in gone])
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("VACUUM")


def setup_named(found: Sequence[Entry], prefix: str | None) -> str:
    """The set-up whose name begins so; without a name that of the latest run.

    Raises
    ------
    OptionError
        If there is none, or more than one.
    """
    if not found:
        raise OptionError("history: expected stored runs, found none (report --history adds them)")
    if prefix is None:
        return found[-1].setup
    names = sorted({e.setup for e in found if e.setup.startswith(prefix)})
    if len(names) != 1:
        text = ", ".join(name[:8] for name in names) or "none"
        raise OptionError(f"--setup: expected one set-up that begins with {prefix!r}, found {text}")
    return names[0]


def wanted(
    connection: sqlite3.Connection,
    setup: str,
    metrics: Sequence[str],
    modes: Sequence[str],
    contexts: Sequence[int],
) -> list[Series]:
    """Series of a set-up, of all metrics, modes and contexts where none is named."""

    def keep(key: Key) -> bool:
        return (
            (not metrics or key.metric in metrics)
            and (not modes or key.mode in modes)
            and (not contexts or key.ctx_tokens in contexts)
        )

    return series(connection, setup, keep)


def name_of(one: Series) -> str:
    return f"{one.key.metric} {one.key.mode} at {one.key.ctx_tokens}"


def shown(metric: str, rate: float) -> tuple[float, str]:
    """A stored rate as people read it: latencies in milliseconds."""
    return (1e3 / rate, "ms") if metric in LATENCIES else (rate, UNITS[metric])


def bencher(found: Sequence[Series]) -> dict[str, dict[str, dict[str, float]]]:
    """The latest point of each series as Bencher Metric Format.

    Source: https://bencher.dev/bmf.json. A benchmark is a metric of a mode at a context; the range
    is that of the points since the last change of level.
    """
    out: dict[str, dict[str, dict[str, float]]] = {}
    for one in found:
        since = one.changes[-1].index if one.changes else 0
        values = [shown(one.key.metric, p.rate)[0] for p in one.points[since:]]
        measure = "latency-ms" if one.key.metric in LATENCIES else "throughput"
        metric = {"value": values[-1]}
        if len(values) > 1:
            metric |= {"lower_value": min(values), "upper_value": max(values)}
        out[name_of(one)] = {measure: metric}
    return out


def otava(found: Sequence[Series], file: str) -> tuple[str, str]:
    """Series as a CSV file and the configuration under which Apache Otava reads it.

    Source: https://otava.apache.org/docs (CSV importer). A row is a commit; a cell that a commit
    lacks stays empty.
    """
    columns = [name_of(one).replace(" ", "_") for one in found]
    rows: dict[tuple[float, str], dict[str, float]] = {}
    for column, one in zip(columns, found):
        for point in one.points:
            value = shown(one.key.metric, point.rate)[0]
            rows.setdefault((point.at, point.commit), {})[column] = value
    lines = [",".join(["time", "commit", *columns])]
    for (at, commit), cells in sorted(rows.items()):
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(at))
        values = [f"{cells[c]:.6g}" if c in cells else "" for c in columns]
        lines.append(",".join([stamp, commit or "unknown", *values]))
    config = ["tests:", "  ds4-bench:", "    type: csv", f"    file: {json.dumps(file)}",
              "    time_column: time", "    attributes: [commit]", "    metrics:"]  # fmt: skip
    for column, one in zip(columns, found):
        direction = -1 if one.key.metric in LATENCIES else 1
        config += [
            f"      {column}:",
            f"        column: {column}",
            f"        direction: {direction}",
        ]
    config += ["    csv_options:", "      delimiter: ','", "      quote_char: '\"'"]
    return "\n".join(lines) + "\n", "\n".join(config) + "\n"
