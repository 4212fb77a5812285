"""Reads rows from any results file, and writes the CSV and Parquet views of a journal.

The journal itself is written row by row while a sweep runs (`ds4bench.sweep.cells`).
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO

from ds4bench.records.csv_text import from_csv, to_csv
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
from engine.errors import EngineError, StoreError
from engine.tooling.report.labels import clean_label
from engine.tooling.results.journal import Record, is_journal, read_journal
from engine.tooling.results.publish import publish, publish_bytes

_PARQUET_UNITS = {
    "mhz": "MHz",
    "c": "degrees Celsius",
    "w": "watts",
    "j": "joules",
    "s": "seconds",
    "bytes": "bytes",
    "tokens": "tokens",
    "pct": "percent",
    "at": "seconds since 1970-01-01 UTC",
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
    try:
        with path.open("rb") as file:
            head = file.read(10)
    except OSError as error:
        raise EngineError(f"{path}: expected results, found {error.strerror}") from error
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


def rows_of(records: list[Record], where: str) -> list[SpeedRow]:
    """The row records of a journal as rows, in the order in which they were written.

    Raises
    ------
    StoreError
        If one lacks a field.
    """
    try:
        return [SpeedRow.from_record(r) for r in records if r.get("kind") == "row"]
    except (TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{where}: expected a complete row, found {error}") from error


def environment_of(header: Record, records: list[Record]) -> dict[str, Any]:
    """The circumstances of a sweep: those of its first start, with the number of starts."""
    starts = [r["environment"] for r in records if r.get("kind") == "start"]
    environment = dict(starts[0]) if starts else {}
    environment["plan"] = header.get("plan", {})
    environment["fingerprint"] = header.get("fingerprint", "")
    environment["starts"] = len(starts)
    return environment


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
    """Bytes per second that the tool measured on this machine, if it did."""
    value = (environment.get("bandwidth") or {}).get("read_bytes_per_s")
    return float(value) if isinstance(value, (int, float)) and value > 0 else None


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
        unit = _PARQUET_UNITS.get(name.rpartition("_")[2])
        meta = {"unit": unit} if unit else None
        columns.append((pa.field(name, kind, metadata=meta), pa.array(cells, kind)))
    metadata = {
        "schema": SCHEMA,
        "version": str(SCHEMA_VERSION),
        "environment": json.dumps(_shareable(environment), allow_nan=False, sort_keys=True),
    }
    schema = pa.schema([f for f, _ in columns], metadata=metadata)
    table = pa.Table.from_arrays([array for _, array in columns], schema=schema)
    pq.write_table(table, file, compression="zstd")


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
    lists = {name: pa.list_(pa.float64() if name.endswith("_s") else pa.int32()) for name in LISTS}
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
            types[f.name] = lists.get(f.name) or plain[word]
    return types


def _from_journal(path: Path) -> SweepResult:
    contents = read_journal(path, SCHEMA, SCHEMA_VERSION)
    warmups = tuple(r for r in contents.records if r.get("kind") == "warmup")
    environment = environment_of(contents.header, contents.records)
    rows = stamped(rows_of(contents.records, str(path)), is_greedy(environment))
    return SweepResult(
        tuple(rows), environment, path, warmups=warmups, dropped=contents.dropped_bytes
    )


def _from_parquet(path: Path) -> SweepResult:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise EngineError(f"{path}: expected a Parquet file, found {reason}") from error
    metadata = {k.decode(): v for k, v in (table.schema.metadata or {}).items()}
    if metadata.get("schema", b"").decode(errors="replace") != SCHEMA:
        raise EngineError(f"{path}: expected schema {SCHEMA!r}, found {metadata.get('schema')!r}")
    version = metadata.get("version", b"").decode(errors="replace")
    if not version.isdigit() or not 1 <= int(version) <= SCHEMA_VERSION:
        raise EngineError(f"{path}: expected version 1 to {SCHEMA_VERSION}, found {version!r}")
    names = {f.name for f in fields(Telemetry)}
    rows = []
    try:
        environment = json.loads(metadata.get("environment", b"{}"))
        for cells in table.to_pylist():
            given = {k: v for k, v in cells.items() if v is not None}
            state = {k: given.pop(k) for k in list(given) if k in names}
            rows.append(SpeedRow.from_record({**given, "telemetry": state}))
    except (TypeError, ValueError) as error:
        raise EngineError(f"{path}: expected complete rows, found {error}") from error
    return SweepResult(tuple(latest(rows)), environment, path)
