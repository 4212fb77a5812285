"""What a run was to ask, line by line, without any question text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ds4eval.plan import Job


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a selection, as reports see it: no question text."""

    n: int
    source: str
    id: str
    repeat: int
    expected: str
    chance: float

    @property
    def key(self) -> str:
        return f"{self.source}/{self.id}"

    @property
    def name(self) -> str:
        return f"{self.key} #{self.repeat + 1}" if self.repeat else self.key


def entry_of(job: Job) -> Entry:
    """A job without its text."""
    q = job.question
    return Entry(job.n, q.source, q.id, job.repeat, q.answer, q.chance)


def entries_of(selected: Sequence[dict[str, Any]]) -> tuple[list[Entry], dict[str, int]]:
    """Entries of a journal's selection, and their numbers by resume key."""
    names = ("source", "id", "repeat", "expected", "chance")
    entries = [Entry(n, *(row[name] for name in names)) for n, row in enumerate(selected, 1)]
    return entries, {row["key"]: n for n, row in enumerate(selected, 1)}


def merge_selection(
    old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Everything ever selected in a run, in the newest order first."""
    seen = {entry["key"] for entry in new}
    return [*new, *(entry for entry in old if entry["key"] not in seen)]
