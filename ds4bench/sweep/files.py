"""Prepares the places that results go to: standard output, earlier results set aside.

Nothing here knows what a row is.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from ds4bench.records import outputs
from engine.errors import EngineError, StoreError
from engine.tooling.results import locks


def write_stdout(text: str) -> None:
    """Write and flush.

    Raises
    ------
    EngineError, StoreError
        If nobody reads any more, or the disk behind it is full.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # The interpreter would try the same text again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if isinstance(error, BrokenPipeError):
            raise EngineError("stdout: expected a reader, found a closed pipe") from None
        raise StoreError(f"stdout: expected to write a row, found {error.strerror}") from None


def set_aside(journal: Path, files: list[Path]) -> None:
    """Rename earlier results to ``NAME.old-<time>``, under the journal's lock.

    Raises
    ------
    StoreError
        If another sweep writes them.
    """
    with contextlib.ExitStack() as stack:
        if journal.exists():
            fd = os.open(journal, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
            stack.callback(os.close, fd)
            locks.lock(fd, journal)
            stack.callback(locks.unlock, fd, journal)
        outputs.set_aside(files)
