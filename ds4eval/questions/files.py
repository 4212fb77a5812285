"""Reads csv, json, json lines and parquet files, plain or packed, into records.

Bytes decide what a file is, never its name. Text is UTF-8, strictly; a byte order mark is
dropped. Nothing here knows what a question is.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from ds4eval.documents import Document
from ds4eval.questions.errors import DatasetError, place
from engine.files.regular import read_regular
from engine.tooling.results.columnar import BoundedParquet, Bounds

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
PACKED = (".gz", ".zst")
# Bytes accepted, packed and unpacked; the largest published set is about 40 MB.
MAX_BYTES = 512 << 20
MAX_FIELD = 16 << 20
MAX_RECORDS = 1_000_000
# Objects, lists and members of one JSON file, or cells of a CSV file: each is up to 200 bytes of
# memory, however short it is in the file. The largest published set has a tenth of a million.
MAX_VALUES = 5_000_000

_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_OTHER = {
    b"PK\x03\x04": "a zip archive (unpack it first)",
    b"BZh": "a bzip2 file (unpack it first)",
    b"\xfd7zXZ": "an xz file (unpack it first)",
    b"%PDF": "a PDF",
    b"version https://git-lfs": "a git-LFS pointer instead of data (run `git lfs pull`)",
}


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its number from 1, the byte it begins at (-1 when unknown), its fields."""

    number: int
    byte: int
    fields: Document


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one file, with the SHA-256 of the file as it lies on disk."""

    path: Path
    form: str
    sha256: str
    columns: tuple[str, ...]
    records: tuple[Record, ...]


def data_files(path: Path) -> tuple[Path, ...]:
    """The file itself, or the data files of a folder in order of name.

    Raises
    ------
    DatasetError
        If nothing is there or the folder holds no data file.
    """
    try:
        if path.is_dir():
            files = sorted(
                entry for entry in path.iterdir() if is_data_name(entry.name) and entry.is_file()
            )
            if not files:
                raise DatasetError(f"{path}: expected a data file in the folder, found none")
            return tuple(files)
        # Not exists(): a loop of links must be told apart from a missing file.
        os.stat(path)
    except OSError as error:
        raise DatasetError(f"{path}: expected a data file, found {error.strerror}") from error
    return (path,)


def is_data_name(name: str) -> bool:
    """Whether a file's name is that of data, in a folder or on a command line."""
    lower = name.lower()
    for suffix in PACKED:
        lower = lower.removesuffix(suffix)
    return lower.endswith(SUFFIXES) and not name.startswith(".")


def read_records(path: Path) -> Records:
    """All records of one data file.

    Raises
    ------
    DatasetError
        If the file cannot be read, is no data file, or is damaged; the message names the record
        or the byte.
    """
    packed = read_regular(path, MAX_BYTES, error=DatasetError)
    if not packed:
        raise DatasetError(f"{path}: expected records, found an empty file")
    sha256 = hashlib.sha256(packed).hexdigest()
    raw = _unpacked(path, packed)
    if raw.startswith(_PARQUET):
        form, columns, records = "parquet", *_parquet(path, raw)
    else:
        form, columns, records = _text_records(path, raw)
    if not records:
        raise DatasetError(f"{path}: expected records, found only a header")
    return Records(path, form, sha256, columns, records)


def _unpacked(path: Path, raw: bytes) -> bytes:
    for _ in range(2):
        try:
            if raw.startswith(_GZIP):
                raw = _gunzip(path, raw)
            elif raw.startswith(_ZSTD):
                raw = _unzstd(path, raw)
            else:
                break
        except (OSError, EOFError, zlib.error) as error:
            raise DatasetError(
                f"{path}: expected a whole packed file, found a damaged one ({error})"
            ) from error
        if not raw:
            raise DatasetError(f"{path}: expected records, found nothing in the packed file")
    for magic, name in _OTHER.items():
        if raw.startswith(magic):
            raise DatasetError(f"{path}: expected csv, json or parquet, found {name}")
    head = raw[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise DatasetError(
            f"{path}: expected csv, json or parquet, found a web page "
            "(a login or an error page saved as data?)"
        )
    return raw


def _gunzip(path: Path, raw: bytes) -> bytes:
    import gzip

    with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
        return _limited(path, file.read(MAX_BYTES + 1))


def _unzstd(path: Path, raw: bytes) -> bytes:
    import pyarrow as pa

    with pa.CompressedInputStream(pa.BufferReader(raw), "zstd") as file:
        return _limited(path, file.read(MAX_BYTES + 1))


def _limited(path: Path, raw: bytes) -> bytes:
    if len(raw) > MAX_BYTES:
        raise DatasetError(f"{path}: expected at most {MAX_BYTES >> 20} MiB unpacked, found more")
    return raw


def _parquet(path: Path, raw: bytes) -> tuple[tuple[str, ...], tuple[Record, ...]]:
    file = BoundedParquet(raw, Bounds(MAX_RECORDS, MAX_BYTES), str(path), DatasetError)
    _unique(path, file.columns)
    records = tuple(Record(i, -1, row) for i, row in enumerate(file.rows(), 1))
    return file.columns, records


def _text_records(path: Path, raw: bytes) -> tuple[str, tuple[str, ...], tuple[Record, ...]]:
    offset = 3 if raw.startswith(b"\xef\xbb\xbf") else 0
    body = raw[offset:]
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DatasetError(f"{place(path, byte=0)}: expected UTF-8 text, found UTF-16")
    nul = body.find(b"\0")
    if nul >= 0:
        where = place(path, body.count(b"\n", 0, nul) + 1, byte=offset + nul)
        raise DatasetError(f"{where.replace('record', 'line')}: expected text, found a NUL")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        where = place(path, body.count(b"\n", 0, error.start) + 1, byte=offset + error.start)
        raise DatasetError(
            f"{where.replace('record', 'line')}: expected UTF-8 text, "
            f"found 0x{body[error.start]:02x} ({error.reason})"
        ) from None
    start = text.lstrip()[:1]
    if not start:
        raise DatasetError(f"{path}: expected records, found only blanks")
    if start in "[{":
        _check_json_size(path, body)
    if start == "[":
        return _json_document(path, text)
    if start == "{":
        lines = list(islice((line for line in _lines(text) if line.strip()), 64))
        # One object a line; a second whole one tells them even when the first is damaged.
        by_line = _is_json(lines[0]) or (len(lines) > 1 and _is_json(lines[1]))
        if by_line and not (len(lines) == 1 and _is_columns(json.loads(lines[0]))):
            return "jsonl", *_json_lines(path, text, offset)
        return _json_document(path, text)
    return "csv", *_csv(path, text)


def _check_json_size(path: Path, body: bytes) -> None:
    """Refuse a text that would become far more values than it has bytes to show."""
    if body.count(b"{") + body.count(b"[") + body.count(b":") + body.count(b",") <= MAX_VALUES:
        return
    # Most of these marks may stand in texts: count what stands outside of them, and the texts.
    values = 0
    for part in _outside_strings(body):
        values += 1 + len(part) - len(part.translate(None, b"{[:,"))
        if values > MAX_VALUES:
            raise DatasetError(f"{path}: expected at most {MAX_VALUES} JSON values, found more")


def _outside_strings(body: bytes) -> Iterator[bytes]:
    """What stands between the strings of a JSON text."""
    place = 0
    for string in re.finditer(rb'"[^"\\]*(?:\\.[^"\\]*)*"', body, re.DOTALL):
        yield body[place : string.start()]
        place = string.end()
    yield body[place:]


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _is_columns(value: object) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(column, (list, dict)) for column in value.values())
    )


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {twice!r} is there twice")
    return found


def _parse(path: Path, text: str, number: int, start: int) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_pairs, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        byte = start + len(text[: error.pos].encode("utf-8"))
        raise DatasetError(
            f"{place(path, number, byte=byte)}: expected JSON, found {error.msg.lower()} "
            "(partial download?)"
        ) from None
    except RecursionError:
        raise DatasetError(
            f"{place(path, number)}: expected JSON, found it nested too deep"
        ) from None
    except ValueError as error:
        raise DatasetError(f"{place(path, number)}: expected JSON, found that {error}") from None


def _json_lines(path: Path, text: str, offset: int) -> tuple[tuple[str, ...], tuple[Record, ...]]:
    records: list[Record] = []
    columns: dict[str, None] = {}
    byte = offset
    # Only \n parts lines: U+2028 and its kin may stand inside a string.
    for number, line in enumerate(_lines(text), 1):
        if line.strip():
            value = _parse(path, line, number, byte)
            if not isinstance(value, dict):
                raise DatasetError(
                    f"{place(path, number, byte=byte)}: expected an object, "
                    f"found {type(value).__name__}"
                )
            records.append(Record(number, byte, value))
            _check_count(path, len(records))
            columns.update(dict.fromkeys(value))
        byte += len(line.encode("utf-8")) + 1
    return tuple(columns), tuple(records)


def _lines(text: str) -> Iterator[str]:
    """Lines one at a time: a list of them would take more memory than the text."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


def _check_count(path: Path, n: int) -> None:
    if n > MAX_RECORDS:
        raise DatasetError(f"{path}: expected at most {MAX_RECORDS} records, found more")


def _json_document(path: Path, text: str) -> tuple[str, tuple[str, ...], tuple[Record, ...]]:
    value = _parse(path, text, 0, 0)
    if isinstance(value, dict) and not _is_columns(value):
        value = [value]
    if isinstance(value, dict):
        rows = list(_columns_to_rows(path, value))
    else:
        rows = value
    _check_count(path, len(rows))
    records = []
    columns: dict[str, None] = {}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DatasetError(
                f"{place(path, number)}: expected an object, found {type(row).__name__}"
            )
        records.append(Record(number, -1, row))
        columns.update(dict.fromkeys(row))
    return "json", tuple(columns), tuple(records)


def _columns_to_rows(path: Path, columns: dict[str, Any]) -> Iterator[Document]:
    """Rows of a document of columns; pandas writes a column as an object of index to value."""
    lists = {
        name: list(column.values()) if isinstance(column, dict) else column
        for name, column in columns.items()
    }
    sizes = {name: len(column) for name, column in lists.items()}
    if len(set(sizes.values())) != 1:
        raise DatasetError(f"{path}: expected columns of one length, found {sizes}")
    for i in range(next(iter(sizes.values()))):
        yield {name: column[i] for name, column in lists.items()}


def _csv(path: Path, text: str) -> tuple[tuple[str, ...], tuple[Record, ...]]:
    old = csv.field_size_limit(MAX_FIELD)
    try:
        return _csv_rows(path, text)
    finally:
        csv.field_size_limit(old)


def _csv_rows(path: Path, text: str) -> tuple[tuple[str, ...], tuple[Record, ...]]:
    header_line = text.split("\n", 1)[0]
    delimiter = "\t" if "\t" in header_line and "," not in header_line else ","
    reader = csv.reader(_csv_lines(text), strict=True, delimiter=delimiter)
    records: list[Record] = []
    number = 0
    try:
        header = tuple(name.strip() for name in next(reader))
        _unique(path, header)
        for number, row in enumerate(reader, 1):
            if not row:
                continue
            if len(row) != len(header):
                raise DatasetError(
                    f"{place(path, number)}: expected {len(header)} fields, found {len(row)} "
                    f"(line {reader.line_num})"
                )
            records.append(Record(number, -1, dict(zip(header, row))))
            _check_count(path, len(records))
            if len(records) * len(header) > MAX_VALUES:
                raise DatasetError(f"{path}: expected at most {MAX_VALUES} cells, found more")
    except csv.Error as error:
        raise DatasetError(
            f"{place(path, number + 1)}: expected csv, found {error} (line {reader.line_num})"
        ) from None
    return header, tuple(records)


def _csv_lines(text: str) -> Iterator[str]:
    """Lines with their ends, as csv wants them; a carriage return alone ends one, too."""
    start = 0
    for end in re.finditer("\r\n|\r|\n", text):
        yield text[start : end.end()]
        start = end.end()
    if start < len(text):
        yield text[start:]


def _unique(path: Path, columns: tuple[str, ...]) -> None:
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise DatasetError(f"{path}: expected column names once each, found {twice[0]!r} twice")
