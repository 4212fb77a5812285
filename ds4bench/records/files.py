"""Reads rows from any results file, and writes the CSV and Parquet views of a journal.

The journal itself is written row by row while a sweep runs (`ds4bench.sweep.cells`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO

from ds4bench.records.csv_text import from_csv, to_csv
from ds4bench.records.limits import checked, checked_environment
from ds4bench.records.rows import (
    LISTS,
    SCHEMA,
    SCHEMA_VERSION,
    SpeedRow,
    SweepResult,
    Telemetry,
    in_order,
    latest,
    stamped,
)
from ds4bench.records.share import Shared
from engine.errors import EngineError
from engine.files.regular import open_regular, read_regular
from engine.tooling.report.labels import clean_label, unique_labels
from engine.tooling.results.columnar import BoundedParquet, Bounds
from engine.tooling.results.journal import Record, is_journal, walk_journal
from engine.tooling.results.publish import publish, publish_bytes
from engine.tooling.results.typed import object_of

MOST_BYTES = 1 << 30  # of a Parquet file, packed and unpacked
MOST_ROWS = 2_000_000
UNSTEADY = 0.2  # of the best pass's rate; passes of an idle machine differ by a twentieth

# By the last word of a field's name; a field without an entry here or below is a text or a flag.
_UNITS_BY_WORD = {
    "mhz": "MHz",
    "c": "degrees Celsius",
    "w": "watts",
    "j": "joules",
    "s": "seconds",
    "bytes": "bytes",
    "tokens": "tokens",
    "pct": "percent",
    "copies": "copies",
    "samples": "samples",
    "processes": "processes",
    "steps": "steps",
}
_UNITS = {
    "bytes_per_step": "bytes per step",
    "run": "number from 1",
    "drafted": "tokens",
    "accepted": "tokens",
    "drafted_by_depth": "tokens",
    "accepted_by_depth": "tokens",
    "started_at": "UTC",
}


def read_rows(path: str | Path) -> SweepResult:
    """Rows of a journal, CSV or Parquet file, or of the folder of a sweep (its rows.jsonl).

    Parameters
    ----------
    path : str or Path
        What it is is told from its first bytes, not from its name.

    Raises
    ------
    EngineError
        If it is none of them, is damaged, or is of a newer version.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "rows.jsonl"
    with open_regular(path, error=EngineError) as file:
        head = file.read(10) or b""
    if head[:4] == b"PAR1":
        return _from_parquet(path)
    if is_journal(head):
        return _from_journal(path)
    return from_csv(path)


def label_of(path: Path) -> str:
    """What a results file is called in legends: its stem, or the folder of a journal."""
    path = Path(path)
    named = path if path.is_dir() or path.name != "rows.jsonl" else path.parent
    name = named.resolve().name if named.is_dir() or named != path else path.stem
    return clean_label(name or str(path))


def labels_of(paths: Sequence[Path]) -> list[str]:
    """Labels of several files: equal names get as many folders in front as tell them apart.

    One file that is named twice is numbered.
    """
    names = [label_of(path) for path in paths]
    places = [Path(os.path.abspath(path)) for path in paths]
    whole = [place.parent if place.name == "rows.jsonl" else place for place in places]
    depth = [0] * len(names)

    def label(i: int) -> str:
        folders = whole[i].parent.parts
        return "/".join([*folders[len(folders) - depth[i] :], names[i]])

    while True:
        labels = [label(i) for i in range(len(names))]
        alike = [
            i
            for i, text in enumerate(labels)
            if depth[i] < len(whole[i].parent.parts) - 1
            and any(other == text and whole[j] != whole[i] for j, other in enumerate(labels))
        ]
        if not alike:
            return unique_labels([clean_label(text) for text in labels])
        for i in alike:
            depth[i] += 1


def rows_of(records: list[Record], where: str) -> list[SpeedRow]:
    """The row records of a journal as rows, in the order in which they were written.

    Raises
    ------
    StoreError
        If a field is missing or wrong; the message names record and field.
    """
    return [
        _row_of(record, f"{where}: record {n}")
        for n, record in enumerate(records, 2)  # the header is the first
        if record.get("kind") == "row"
    ]


def _row_of(record: Record, where: str) -> SpeedRow:
    return checked(SpeedRow.from_record(record, where), where)


def environment_of(header: Record, records: list[Record], where: str = "journal") -> dict[str, Any]:
    """The circumstances of a sweep: those of its first start, with the number of starts.

    Raises
    ------
    StoreError
        If a part of them is not what it must be.
    """
    starts = [r.get("environment") for r in records if r.get("kind") == "start"]
    environment = dict(checked_environment(starts[0], where)) if starts else {}
    environment["plan"] = header.get("plan", {})
    environment["fingerprint"] = header.get("fingerprint", "")
    environment["starts"] = len(starts)
    first = next((r.get("at") for r in records if r.get("kind") == "start"), None)
    if first is not None:
        environment["started_at"] = first
    return checked_environment(environment, where)


def publish_views(
    rows: list[SpeedRow],
    environment: dict[str, Any],
    *,
    csv_path: Path | None,
    parquet_path: Path | None,
    upstream_only: bool,
) -> None:
    """Write the CSV and Parquet views of a journal, each whole or not at all.

    Raises
    ------
    StoreError
        If one cannot be written; its earlier version is intact.
    """
    rows = stamped(rows, is_greedy(environment))
    if csv_path is not None:
        bandwidth = machine_bandwidth(environment)
        publish_bytes(csv_path, to_csv(rows, upstream_only, bandwidth))
    if parquet_path is not None:
        publish(parquet_path, lambda file: write_parquet(file, rows, environment))


def is_greedy(environment: dict[str, Any]) -> bool:
    """Whether the sweep chose tokens at temperature 0, by its recorded plan."""
    sampling = (environment.get("plan") or {}).get("sampling") or {}
    return not sampling.get("temp")


def machine_bandwidth(environment: dict[str, Any]) -> float | None:
    """Bytes per second that the tool measured on this machine, if it did and its passes agree.

    A share of a rate that other work had halved would be a figure about that work.
    """
    rates = bandwidth_rates(environment)
    return None if not rates or unsteady(rates) else max(rates)


def bandwidth_rates(environment: dict[str, Any]) -> list[float]:
    """Bytes per second of each pass; earlier versions kept the best one only."""
    found = environment.get("bandwidth") or {}
    rates = found.get("passes_bytes_per_s") or [found.get("read_bytes_per_s")]
    return [float(rate) for rate in rates if isinstance(rate, (int, float)) and rate > 0]


def unsteady(rates: Sequence[float]) -> bool:
    """Whether the usual pass is so far below the best one that neither can be trusted."""
    return bool(rates) and median(rates) < (1 - UNSTEADY) * max(rates)


def bandwidth_text(rates: Sequence[float]) -> str:
    """Best rate with the usual and the lowest one beside it."""
    text = f"{max(rates) / 1e9:.1f} GB/s"
    if len(rates) > 1:
        text += (
            f" (best of {len(rates)} passes; median {median(rates) / 1e9:.1f}, "
            f"lowest {min(rates) / 1e9:.1f})"
        )
    return text + (", unsteady: shares of it are left out" if unsteady(rates) else "")


def write_parquet(file: BinaryIO, rows: list[SpeedRow], environment: dict[str, Any]) -> None:
    """Raw seconds and counts; units on each field, environment in the schema's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = in_order(rows)
    columns = []
    for name, kind in _parquet_types(pa).items():
        owner = SpeedRow if name in SpeedRow.__slots__ else Telemetry
        cells = [getattr(row if owner is SpeedRow else row.telemetry, name) for row in rows]
        if pa.types.is_list(kind):
            cells = [list(cell) for cell in cells]
        elif pa.types.is_timestamp(kind):
            cells = [None if at is None else round(at * 1e6) for at in cells]
        field = pa.field(name, kind, metadata={"unit": _unit(name, pa.types.is_boolean(kind))})
        columns.append((field, pa.array(cells, kind)))
    metadata = {
        "schema": SCHEMA,
        "version": str(SCHEMA_VERSION),
        "environment": json.dumps(_shareable(environment), allow_nan=False, sort_keys=True),
    }
    schema = pa.schema([f for f, _ in columns], metadata=metadata)
    table = pa.Table.from_arrays([array for _, array in columns], schema=schema)
    pq.write_table(table, file, compression="zstd")


def _unit(name: str, flag: bool) -> str:
    known = _UNITS.get(name) or _UNITS_BY_WORD.get(name.rpartition("_")[2])
    return known or ("flag" if flag else "text")


def _shareable(value: Any) -> Any:
    """The environment without the user's name: paths in the home folder begin with '~'."""
    if isinstance(value, dict):
        return {name: _shareable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shareable(item) for item in value]
    home = os.path.expanduser("~") + os.sep
    if isinstance(value, str) and value.startswith(home):
        return "~" + os.sep + value[len(home) :]
    return value


def _parquet_types(pa: Any) -> dict[str, Any]:
    floats = {name for name in LISTS if name.endswith("_s")} | {"reliability"}
    lists = {n: pa.list_(pa.float64() if n in floats else pa.int32()) for n in LISTS}
    types = {}
    for owner in (SpeedRow, Telemetry):
        for f in fields(owner):
            if f.name == "telemetry":
                continue
            word = str(f.type).split(" |")[0]
            plain = {
                "int": pa.int64(),
                "float": pa.float64(),
                "str": pa.string(),
                "bool": pa.bool_(),
            }
            # Parquet knows no UTC time in floats; microseconds are what readers agree on.
            at = pa.timestamp("us", tz="UTC") if f.name == "started_at" else None
            types[f.name] = at or lists.get(f.name) or plain[word]
    return types


def _from_journal(path: Path) -> SweepResult:
    rows: list[SpeedRow] = []
    others: list[Record] = []
    share = Shared()

    def take(record: Record, n: int) -> None:
        # A record becomes a row at once: kept as dictionaries, they would weigh several times that.
        if record.get("kind") == "row":
            rows.append(share.row(_row_of(record, f"{path}: record {n}")))
        else:
            others.append(record)

    header, dropped = walk_journal(path, SCHEMA, SCHEMA_VERSION, take)
    warmups = tuple(r for r in others if r.get("kind") == "warmup")
    environment = environment_of(header, others, str(path))
    found = tuple(stamped(rows, is_greedy(environment)))
    return SweepResult(found, environment, path, warmups=warmups, dropped=dropped)


def _from_parquet(path: Path) -> SweepResult:
    data = read_regular(path, MOST_BYTES, error=EngineError)
    table = BoundedParquet(data, Bounds(MOST_ROWS, MOST_BYTES), str(path))
    schema = table.metadata.get(b"schema", b"").decode(errors="replace")
    if schema != SCHEMA:
        raise EngineError(f"{path}: expected schema {SCHEMA!r}, found {schema[:80]!r}")
    version = table.metadata.get(b"version", b"").decode(errors="replace")
    if version not in {str(n) for n in range(1, SCHEMA_VERSION + 1)}:
        raise EngineError(f"{path}: expected version 1 to {SCHEMA_VERSION}, found {version[:80]!r}")
    stored = table.metadata.get(b"environment", b"{}")
    environment = checked_environment(object_of(stored, f"{path}: environment"), str(path))
    names = {f.name for f in fields(Telemetry)}
    rows, share = [], Shared()
    for n, cells in enumerate(table.rows(), 1):
        given = {k: v for k, v in cells.items() if v is not None}
        state = {k: given.pop(k) for k in list(given) if k in names}
        at = given.get("started_at")
        if isinstance(at, datetime):  # the first version wrote seconds since 1970
            given["started_at"] = at.timestamp()
        where = f"{path}: row {n}"
        rows.append(share.row(_row_of({**given, "telemetry": state}, where)))
    return SweepResult(tuple(latest(rows)), environment, path)
