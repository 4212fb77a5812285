"""What the user sees while a sweep runs: a bar on a terminal, a line per row elsewhere.

Drawing happens between timed windows only, on stderr; stdout carries data.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from ds4bench.records.rows import SpeedRow


def line_of(row: SpeedRow) -> str:
    """One row as a short line of text."""
    head = f"ctx {row.ctx_tokens:>7}  {row.series:<12} run {row.run}"
    if not row.ok:
        return f"{head}  {row.status}: {printable(row.message)[:200]}"
    parts = [head, f"prefill {_rate(row.prefill_tps)}", f"decode {_rate(row.gen_tps)}"]
    if row.drafted is not None:
        share = row.acceptance
        kept = "nothing drafted" if share is None else f"{share:.0%} kept"
        parts.append(f"{row.tokens_per_step or 0:.2f} tok/step ({kept})")
    return "  ".join(parts)


def _rate(value: float | None) -> str:
    return "      -    " if value is None else f"{value:>9.2f} t/s"


def printable(text: str) -> str:
    """Text without control characters, so that a file's name cannot drive the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


class ProgressScreen:
    """A rich progress bar on a terminal, plain lines otherwise.

    Parameters
    ----------
    total : int
        Rows of the whole sweep.
    done : int
        Rows that are there already.
    stream : text file
        Normally stderr.
    """

    def __init__(self, total: int, done: int, stream: Any = None) -> None:
        self.stream = stream or sys.stderr
        self._progress: Any = None
        self._total, self._done = total, done
        if self.stream.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            # No refresh thread: it would run inside timed windows.
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(file=self.stream),
                auto_refresh=False,
            )
            self._progress.start()
            self._task = self._progress.add_task("sweep", total=total, completed=done)
            self._progress.refresh()

    def note(self, text: str) -> None:
        """One line of talk."""
        self._print(printable(text))

    def skip(self, n: int) -> None:
        """So many rows are there already, as was found out later."""
        self._done += n
        if self._progress is not None and n:
            self._progress.update(self._task, advance=n)

    def row(self, row: SpeedRow, text: str = "") -> None:
        """A row was measured; `text` takes the place of its line."""
        self._done += 1
        if self._progress is None:
            self._print(text or f"[{self._done}/{self._total}] {line_of(row)}")
            return
        self._print(text or line_of(row))
        with _terminal_may_be_gone():
            self._progress.update(self._task, advance=1, refresh=True)

    def close(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None:
            with _terminal_may_be_gone():
                progress.stop()

    def _print(self, text: str) -> None:
        with _terminal_may_be_gone():
            if self._progress is None:
                print(text, file=self.stream, flush=True)
            else:
                self._progress.console.print(text, markup=False, highlight=False)


def _terminal_may_be_gone() -> contextlib.AbstractContextManager[None]:
    """Nothing that cannot be shown is worth the rows that are still to be published."""
    return contextlib.suppress(OSError)
