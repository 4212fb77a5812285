"""Replays the journal of a run into its samples, and reads a run folder without changing it.

Defines what a run is to those who read it; what a sample is, `ds4eval.records.record` says.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ds4eval.documents import Document
from ds4eval.plan import Selected
from ds4eval.records.entries import merge_selection
from ds4eval.records.record import (
    FIELDS,
    GRADE_FIELDS,
    GRADERS,
    JOURNAL,
    MANIFEST,
    MOST_MANIFEST,
    RULES,
    SCHEMA,
    SCHEMA_VERSION,
    AskedText,
    Sample,
    sample_from,
)
from engine.errors import StoreError
from engine.tooling.results.typed import check_shape, read_object, typed

# Texts of a sample that it has in common with others of its run, or with a selection.
_ALIKE = (
    *("key", "source", "id", "domain", "kind", "stop", "state", "expected", "close", "thinking"),
    *("grader_version", "headline", "finish_reason", "question_sha256", "prompt_sha256"),
    *(f"{grader}{name}" for grader in GRADERS for name in ("given", "verdict", "rule")),
)
_ALIKE_SELECTED: tuple[Literal["key", "source", "id", "kind", "expected"], ...] = (
    *("key", "source", "id", "kind", "expected"),
)


@dataclass(slots=True)
class Replay:
    """State of a run after its journal's records, one by one.

    Of a key's samples the last final one counts, or the last one while none is final: a question
    that is asked again and then stopped keeps its answer.
    """

    samples: dict[str, Sample] = field(default_factory=dict)
    selected: list[Selected] = field(default_factory=list)
    sessions: int = 0
    earlier: dict[str, list[Sample]] = field(default_factory=dict)
    _asked: dict[tuple[str, str], AskedText] = field(default_factory=dict)

    def take(self, record: Document, where: str = "record") -> None:
        """One record more; kinds that a later version added are passed over.

        Raises
        ------
        StoreError
            If the record is not what it says; the message begins with `where`.
        """
        kind = record.get("type")
        if kind == "sample":
            self.add(self._shared(sample_from(record, where)))
        elif kind == "grade":
            sample = self.samples.get(str(record.get("key", "")))
            if sample is not None:
                changed = {name: record[name] for name in GRADE_FIELDS if name in record}
                self.samples[sample.key] = sample_from({**_shallow(sample), **changed}, where)
        elif kind == "selection":
            self.selected = merge_selection(self.selected, _selected(record, where))
        elif kind == "session":
            self.sessions += 1

    def _shared(self, sample: Sample) -> Sample:
        """The same new sample; what many samples say alike is in memory once."""
        for name in _ALIKE:
            object.__setattr__(sample, name, sys.intern(getattr(sample, name)))
        asked = self._asked.setdefault((sample.source, sample.id), sample.question)
        if asked == sample.question:
            object.__setattr__(sample, "question", asked)
        return sample

    def add(self, sample: Sample) -> None:
        before = self.samples.get(sample.key)
        if before is None or sample.final or not before.final:
            self.samples[sample.key] = sample
            if before is not None and before.final:
                self.earlier.setdefault(sample.key, []).append(before)

    def ordered(self) -> list[Sample]:
        """Samples in the order of the selection, then others."""
        place = {entry["key"]: i for i, entry in enumerate(self.selected)}
        return sorted(self.samples.values(), key=lambda s: place.get(s.key, len(place)))


def _selected(record: Document, where: str) -> list[Selected]:
    """Rows of a `selection` record.

    Raises
    ------
    StoreError
        If one lacks a field, or holds what no selection can.
    """
    rows = record.get("questions", [])
    if not isinstance(rows, list):
        raise StoreError(f"{where}: questions: expected a list, found {type(rows).__name__}")
    found = []
    for n, row in enumerate(rows, 1):
        entry = typed(Selected, row, RULES, f"{where}: question {n}")
        for name in _ALIKE_SELECTED:
            entry[name] = sys.intern(entry[name])
        found.append(entry)
    return found


def _shallow(sample: Sample) -> Document:
    return {name: getattr(sample, name) for name in FIELDS}


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder as read.

    Attributes
    ----------
    folder : Path
    run_id : str
    config : dict
        Everything that decides a reply; see `ds4eval.plan`.
    selected : list of dict
        `source`, `id`, `repeat`, `key` and more of every question of the newest selection.
    samples : list of Sample
        The latest of each key, in the selection's order, then others.
    manifest : dict
        `manifest.json`, or {} when it is missing.
    dropped_bytes : int
        Damaged tail of the journal that was ignored.
    earlier : dict of str to list of Sample
        Final answers that a later one of their key replaced, oldest first.
    """

    folder: Path
    run_id: str
    config: Document
    selected: list[Selected]
    samples: list[Sample]
    manifest: Document
    dropped_bytes: int
    earlier: dict[str, list[Sample]] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        """Grader that decided the states of its samples, by the name that reports use."""
        named = next((sample.headline for sample in self.samples if sample.headline), "strict")
        return {"classic": "ds4-classic"}.get(named, named)


def journal_path(path: Path) -> Path:
    """The journal of a run folder, or `path` itself when it names a journal."""
    return path / JOURNAL if path.is_dir() else path


def read_run(path: Path) -> Run:
    """Read a run folder (or its `samples.jsonl`) without locking or changing it.

    Raises
    ------
    StoreError
        If there is no readable journal.
    """
    from engine.tooling.results.journal import walk_journal

    journal = journal_path(path)
    replay = Replay()
    header, dropped = walk_journal(
        journal,
        SCHEMA,
        SCHEMA_VERSION,
        lambda record, n: replay.take(record, f"{journal}: record {n}"),
    )
    config = header.get("config", {})
    if not isinstance(config, dict):
        raise StoreError(f"{journal}: config: expected an object, found {type(config).__name__}")
    check_shape(config, f"{journal}: config")
    try:
        manifest = read_object(journal.with_name(MANIFEST), MOST_MANIFEST)
        check_shape(manifest, MANIFEST)
    except StoreError:
        manifest = {}  # a view of the journal; reports say what they know without it
    return Run(
        journal.parent,
        str(header.get("run_id", "")),
        config,
        replay.selected,
        replay.ordered(),
        manifest,
        dropped,
        replay.earlier,
    )
