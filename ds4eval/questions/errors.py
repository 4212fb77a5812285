"""Errors and findings of data sets, which name the file, record, field and byte."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.errors import EngineError


class DatasetError(EngineError):
    """Data that is missing, gated or damaged; programs exit with status 3."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """Something odd in one record that does not prevent its use. Safe to print.

    `level` is 'error' (only `validate` goes on behind one), 'warning' or 'note'; `record` counts
    from 1, 0 stands for the file.
    """

    level: str
    record: int
    id: str
    message: str

    def __str__(self) -> str:
        place = f"record {self.record}" if self.record else "file"
        name = f" ({self.id})" if self.id else ""
        return f"{self.level}: {place}{name}: {self.message}"


def place(path: Path | str, record: int = 0, field: str = "", byte: int = -1) -> str:
    """Subject of a message: file, then what is known of record, field and byte offset."""
    parts = [str(path)]
    if record:
        parts.append(f"record {record}")
    if field:
        parts.append(f"field {field!r}")
    if byte >= 0:
        parts.append(f"byte {byte}")
    return ", ".join(parts)
