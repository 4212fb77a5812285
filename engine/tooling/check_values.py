"""Shows how far a large model file is read: for the scan of its values, or ahead of a device.

It runs before an engine is opened, so that a program's own display, its worker processes and its
timed phases find the scan done. Small files are left to `open_engine`: nobody would see the bar.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

from engine.options import EngineOptions
from engine.tooling.exits import printable, say

SHOWN_FROM = 1 << 30  # bytes: about a second where the file is in memory


def check_values(options: EngineOptions, tick: Callable[[], None] | None = None) -> EngineOptions:
    """Scan files of a GiB or more that `options` asks to be scanned, with a bar on a terminal.

    Parameters
    ----------
    options : EngineOptions
    tick : callable, optional
        Called every few MiB; what it raises ends the scan.

    Returns
    -------
    EngineOptions
        To open the engine with: a scan that was made here is not made again.

    Raises
    ------
    GGUFError, LayoutError
        If a file is not a model that can be run, or holds NaN or infinity.
    """
    if options.check_values == "never" or _size(options) < SHOWN_FROM:
        return options
    from engine.weights.verify import verify_files

    with contextlib.ExitStack() as stack:

        def bar(total: int) -> Callable[[int], None]:
            when = "at every start" if options.check_values == "always" else "once"
            why = f"{when} to find NaN and infinity (--check-values never does without)"
            advance = _shown(options, total, stack, "checking values of", why)

            def progress(n_bytes: int) -> None:
                if tick is not None:
                    tick()
                advance(n_bytes)

            return progress

        verify_files(options, bar)
    return replace(options, check_values="never")


@contextlib.contextmanager
def shown_reading(
    options: EngineOptions, line: bool = False
) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """The `bar` of `engine.open_engine`: of a GiB or more it shows how much was read ahead.

    `line` keeps it to one line on a terminal too, where another process draws.
    """
    with contextlib.ExitStack() as stack:

        def bar(total: int) -> Callable[[int], None]:
            if total < SHOWN_FROM:
                return lambda n_bytes: None
            why = "ahead into memory that the device shares"
            return _shown(options, total, stack, "reading ahead", why, line)

        yield bar


def _size(options: EngineOptions) -> int:
    """Bytes of the files; of one that cannot be read 0, which opening it explains."""
    total = 0
    for path in options.paths:
        with contextlib.suppress(OSError):
            total += os.stat(path).st_size
    return total


def _shown(
    options: EngineOptions,
    total: int,
    stack: contextlib.ExitStack,
    doing: str,
    why: str,
    line: bool = False,
) -> Callable[[int], None]:
    """A bar on a terminal, one line elsewhere; returns what is called with bytes done."""
    name = printable(options.path.name)
    if line or not sys.stderr.isatty():
        say(f"{name}: reading {total / 2**30:.1f} GiB {why}")
        return lambda n_bytes: None
    from rich import progress as rich_progress
    from rich.console import Console

    shown = stack.enter_context(
        rich_progress.Progress(
            rich_progress.TextColumn("{task.description}", markup=False),
            rich_progress.BarColumn(),
            rich_progress.DownloadColumn(binary_units=True),
            rich_progress.TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
    )
    task = shown.add_task(f"{doing} {name}", total=total)
    return lambda n_bytes: shown.advance(task, n_bytes)
