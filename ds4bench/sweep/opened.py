"""Where a sweep's results go, and the journal that is opened for them: new, or to go on with.

What is measured is not known here: a plan says which cells it has, and a fingerprint what its rows
have in common.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ds4bench.plan import Cell
from ds4bench.records.files import rows_of
from ds4bench.records.rows import SCHEMA, SCHEMA_VERSION
from ds4bench.sweep.checks import check_grid, check_same, digest
from ds4bench.sweep.files import set_aside
from engine.errors import OptionError
from engine.tooling.results.journal import Journal
from engine.tooling.results.publish import check_folder, check_output, make_folder, remove_stale
from engine.tooling.results.redact import recordable


class Planned(Protocol):
    """A plan, of our engine's sweep or of a server's."""

    def to_record(self) -> dict[str, object]: ...

    def cells(self) -> Iterator[Cell]: ...


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where a sweep's results go; None means that nobody asked for it."""

    journal: Path | None = None
    csv: Path | None = None
    parquet: Path | None = None
    plot: Path | None = None
    folder: Path | None = None  # made when the sweep starts

    def named(self) -> list[tuple[str, Path]]:
        """The files with the options that name them."""
        pairs = (("--csv", self.csv), ("--parquet", self.parquet), ("--plot", self.plot))
        files = [(option, path) for option, path in pairs if path is not None]
        return files + ([("journal", self.journal)] if self.journal else [])


def check_outputs(outputs: Outputs, replace: bool) -> None:
    """Refuse paths that cannot be written, or hold results that nobody gave leave to replace."""
    folder = outputs.folder
    fresh = folder is not None and not folder.exists()
    if folder is not None:
        check_folder(folder, "--out")
    for option, path in outputs.named():
        if not (fresh and path.parent == folder):
            check_output(path, option, replace=replace)


@contextlib.contextmanager
def open_journal(
    outputs: Outputs,
    plan: Planned,
    same: Mapping[str, object],
    *,
    resume: bool,
    force: bool,
    allow_network_fs: bool,
    record_paths: bool = False,
) -> Iterator[Journal]:
    """The journal of a new or resumed sweep, locked, with stale temporary files removed.

    Parameters
    ----------
    same : mapping
        What rows of one journal must have in common.

    Raises
    ------
    OptionError, StoreError
        If rows are there that nobody asked to go on with, or that are another experiment's.
    """
    known = recordable(plan.to_record(), paths=record_paths)
    header = {"plan": known, "fingerprint": same, "fingerprint_digest": digest(same)}
    with contextlib.ExitStack() as stack:
        path = outputs.journal
        if outputs.folder is not None:
            make_folder(outputs.folder)
        if path is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ds4-bench-"))
            path = Path(folder) / "rows.jsonl"
        elif force:
            set_aside(path, [file for _, file in outputs.named()])
        journal = stack.enter_context(
            Journal.open(path, SCHEMA, SCHEMA_VERSION, header, allow_network_fs=allow_network_fs)
        )
        if journal.records and not resume:
            raise OptionError(f"journal: expected a new file, found {str(path)!r} with rows")
        check_same(journal.header.get("fingerprint", {}), same, str(path))
        check_grid(rows_of(journal.records, str(path)), plan.cells(), str(path))
        for _, file in outputs.named():
            remove_stale(file)
        yield journal
