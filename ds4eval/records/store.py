"""Opens a run folder for writing: one process at a time, resumed by default.

Every record is on the disk when `append` returns. The store does not know what a reply means.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from ds4eval.documents import Document, section
from ds4eval.plan import IDENTITY, Job, Selected, selection
from ds4eval.records import record as records
from ds4eval.records.conditions import check_config
from ds4eval.records.record import Sample
from ds4eval.records.replay import Replay
from ds4eval.records.tables import write_tables
from engine.errors import OptionError, StoreError
from engine.tooling.results.journal import Journal, read_journal
from engine.tooling.results.publish import publish_bytes, remove_stale

PUBLISH_EVERY_S = 30.0


def utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def peek_config(folder: Path) -> Document | None:
    """Configuration of the run that a folder holds; None when it holds none.

    Raises
    ------
    StoreError
        If there is a journal that cannot be read.
    """
    path = folder / records.JOURNAL
    if not path.exists():
        return None
    try:
        header = read_journal(path, records.SCHEMA, records.SCHEMA_VERSION).header
        return section(header, "config")
    except StoreError:
        if path.stat().st_size == 0:
            return None
        raise


class RunStore:
    """Use `RunStore.open`, then `begin`; close it, or use it as a context manager.

    Attributes
    ----------
    folder : Path
    run_id : str
    session : int
        Which opening of the folder this is, from 1.
    notices : list of str
    """

    def __init__(self, folder: Path, journal: Journal) -> None:
        self.folder = folder
        self.journal = journal
        self.run_id = str(journal.header.get("run_id", ""))
        self.config: Document = section(journal.header, "config")
        self._replay = Replay()
        for n, record in enumerate(journal.records, 2):  # the header is the first
            self._replay.take(record, f"{journal.path}: record {n}")
        self.session = self._replay.sessions + 1
        self.manifest: Document = {}
        self._published = 0.0
        self.notices: list[str] = []
        if journal.moved_aside is not None:
            self.notices.append(f"{journal.path}: a damaged end was moved to {journal.moved_aside}")

    @classmethod
    def open(
        cls,
        folder: Path,
        config: Document,
        *,
        answered_by: Document | None = None,
        force: bool = False,
        allow_network_fs: bool = False,
    ) -> RunStore:
        """Create a run folder, or go on with the run that it holds.

        Parameters
        ----------
        folder : Path
        config : dict
        answered_by : dict, optional
            What will answer, as `begin` writes it down: no other weights than before.
        force : bool
            Move an earlier run's files aside.
        allow_network_fs : bool

        Raises
        ------
        OptionError
            If the folder holds a run of another configuration, or cannot be one.
        StoreError
            If another process writes it, or the disk refuses.
        """
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)  # it will hold replies
        except OSError as error:
            raise OptionError(
                f"--out: expected a folder that can be made, found {error.strerror}: "
                f"{str(folder)!r}"
            ) from None
        path = folder / records.JOURNAL
        header = {
            "run_id": f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}",
            "created": utc_now(),
            "config": config,
        }

        def journal_at() -> Journal:
            return Journal.open(
                path,
                records.SCHEMA,
                records.SCHEMA_VERSION,
                header,
                allow_network_fs=allow_network_fs,
                plain=True,
                private=True,
            )

        journal = journal_at()
        if force and (journal.records or journal.header.get("config") != config):
            # Holding the lock, so that no living run is moved away.
            _set_aside(folder)
            journal.close()
            journal = journal_at()
        try:
            check_config(folder, journal.header.get("config", {}), config)
            _check_weights(folder, journal.records, answered_by or {})
            return cls(folder, journal)
        except BaseException:
            journal.close()
            raise

    def begin(self, jobs: Sequence[Job], environment: Document) -> None:
        """Write down this opening: machine, code, and what is to be asked."""
        for name in (records.CSV, records.PARQUET, records.MANIFEST, records.REPORT):
            remove_stale(self.folder / name)
        chosen = selection(jobs)
        self._append({"type": "session", "session": self.session, "time": utc_now(), **environment})
        if chosen != self._replay.selected[: len(chosen)]:
            self._append({"type": "selection", "questions": chosen})
        self.manifest = {
            "schema": records.SCHEMA,
            "version": records.SCHEMA_VERSION,
            "run_id": self.run_id,
            "created": self.journal.header.get("created", ""),
            "config": self.config,
            **environment,
        }
        self.publish(force=True)

    def append(self, sample: Sample) -> None:
        """Make a sample durable."""
        self._append(sample.record())

    def add_grade(self, sample: Sample) -> None:
        """Make a new grade of a sample durable."""
        self._append(records.grade_record(sample))

    def _append(self, record: Document) -> None:
        self.journal.append(record)
        self._replay.take(record)

    @property
    def samples(self) -> dict[str, Sample]:
        """Samples that count, by key."""
        return self._replay.samples

    @property
    def selected(self) -> list[Selected]:
        """Every question ever selected, the newest selection first."""
        return self._replay.selected

    def ordered(self) -> list[Sample]:
        """Samples in the order of the selection."""
        return self._replay.ordered()

    def publish(self, force: bool = False, report: str | None = None) -> None:
        """Write manifest and tables, at most every PUBLISH_EVERY_S seconds unless forced."""
        now = time.monotonic()
        if not force and now - self._published < PUBLISH_EVERY_S:
            return
        samples = self.ordered()
        manifest = {
            **self.manifest,
            "progress": {
                "selected": len(self.selected),
                "final": sum(sample.final for sample in samples),
                "graded": sum(sample.graded for sample in samples),
                "passed": sum(sample.passed for sample in samples),
                **_work(samples),
            },
        }
        text = json.dumps(manifest, indent=1, sort_keys=False) + "\n"
        publish_bytes(self.folder / records.MANIFEST, text.encode(), private=True)
        write_tables(self.folder, samples, manifest)
        if report is not None:
            publish_bytes(
                self.folder / records.REPORT, report.encode("utf-8", "replace"), private=True
            )
        self._published = time.monotonic()

    def close(self) -> None:
        self.journal.close()

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _work(samples: Sequence[Sample]) -> Document:
    """Tokens and seconds of the answers that say both: what a later run may be expected to take."""
    both = [
        (s.gen_tokens, s.decode_s + (s.prefill_s or 0.0))
        for s in samples
        if s.final and s.gen_tokens is not None and s.decode_s is not None
    ]
    if not both:
        return {}
    return {
        "counted": len(both),
        "gen_tokens": sum(tokens for tokens, _ in both),
        "seconds": float(sum(seconds for _, seconds in both)),
    }


def _check_weights(folder: Path, journal: Sequence[Document], now: Document) -> None:
    """Refuse other weights than those of an earlier session of this run, naming both.

    The configuration of a run that an earlier release began knows the model by its header alone;
    from the first session of this release on the journal knows more.
    """
    for record in journal:
        before = section(record, "answered_by") if record.get("type") == "session" else {}
        for name in IDENTITY:
            if before.get(name) and now.get(name) and before[name] != now[name]:
                raise OptionError(
                    f"{folder}: expected the run's own {name} {before[name]!r}, "
                    f"found {now[name]!r} "
                    "(another --out starts another run; --force moves this one aside)"
                )


def _set_aside(folder: Path) -> None:
    """Give the old run's files names of their own; nothing is deleted."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    names = (records.CSV, records.PARQUET, records.MANIFEST, records.REPORT, records.JOURNAL)
    for name in names:
        path = folder / name
        if not path.exists():
            continue
        for n in range(1000):
            aside = folder / (f"{name}.old-{stamp}" + (f"-{n}" if n else ""))
            if not aside.exists():
                os.rename(path, aside)
                break
