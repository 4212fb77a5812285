"""Writes `results.csv` and `results.parquet`, which hold neither question nor reply text."""

from __future__ import annotations

import csv
import io
import json
import re
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ds4eval.documents import Document
from ds4eval.records.record import CSV, OCCASIONAL, PARQUET, TABLE_FIELDS, Sample
from engine.tooling.report.labels import clean_text, safe_cell
from engine.tooling.results.publish import publish, publish_bytes

if TYPE_CHECKING:
    import pyarrow as pa

_NUMBER = re.compile(r"-?[0-9]{1,31}\Z")


def cell(value: object) -> str:
    """One CSV cell; text that a spreadsheet would take for a formula gets a leading quote."""
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=True) if value else ""
    if isinstance(value, float):
        return repr(value)
    text = str(value).replace("\r", " ").replace("\n", " ").replace("\0", "")
    text = clean_text(text)
    return text if _NUMBER.match(text) else safe_cell(text)


def _columns(rows: list[Sample]) -> list[str]:
    """Columns of a table: those that only some replies have, where one has them."""
    return [
        name
        for name in TABLE_FIELDS
        if name not in OCCASIONAL or any(getattr(row, name) for row in rows)
    ]


def to_csv(samples: Iterable[Sample]) -> bytes:
    """A whole CSV file, every cell quoted, LF line ends, UTF-8."""
    sink = io.StringIO()
    writer = csv.writer(sink, quoting=csv.QUOTE_ALL, lineterminator="\n")
    rows = list(samples)
    names = _columns(rows)
    writer.writerow(names)
    for sample in rows:
        writer.writerow([cell(getattr(sample, name)) for name in names])
    return sink.getvalue().encode("utf-8", "replace")


def to_table(samples: Iterable[Sample], manifest: Document) -> pa.Table:
    """An Arrow table of the same columns; the manifest lies in its metadata under `ds4eval`."""
    import pyarrow as pa

    hints = typing.get_type_hints(Sample)
    rows = list(samples)
    arrays, fields = [], []
    for name in _columns(rows):
        values = [getattr(row, name) for row in rows]
        kind: pa.DataType = pa.string()
        if hints[name] in (int, int | None):
            kind = pa.uint64() if name in ("seed", "stream") else pa.int64()
        elif hints[name] in (float, float | None):
            kind = pa.float64()
        elif name == "permutation":
            kind = pa.list_(pa.int64())
        elif name == "notes":
            kind = pa.list_(pa.string())
            values = [[_utf8(note) for note in value] for value in values]
        elif name == "strata":
            values = [json.dumps(value, sort_keys=True) for value in values]
        else:
            values = [_utf8(value) for value in values]
        arrays.append(pa.array(values, kind))
        fields.append(pa.field(name, kind))
    metadata = {b"ds4eval": json.dumps(manifest).encode()}
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=metadata))


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def write_tables(folder: Path, samples: list[Sample], manifest: Document) -> None:
    """Publish both files, whole or not at all.

    Raises
    ------
    StoreError
        If the disk refuses.
    """
    import pyarrow.parquet as pq

    publish_bytes(folder / CSV, to_csv(samples), private=True)
    table = to_table(samples, manifest)
    publish(
        folder / PARQUET,
        lambda file: pq.write_table(table, file, compression="zstd"),
        private=True,
    )
