"""Runs the sweeps of `ab` as child processes, and waits for a quiet machine before each.

Nothing here looks at results; a child is judged by its exit status alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ds4bench.ab.plan import AbPlan
from engine.errors import EngineError
from engine.tooling import exits
from engine.tooling.signals import StopSignals

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.25
_TAIL = 2000  # characters of a failed sweep's talk that are shown
# A sweep with failed rows, or other tokens than plain, has still measured: compare judges it.
_MEASURED = (exits.OK, exits.PARTIAL, exits.NOT_LOSSLESS)


class Stopped(KeyboardInterrupt):
    """A signal asked to end; `exit_code` is the status to end with."""

    def __init__(self, exit_code: int = exits.INTERRUPTED) -> None:
        super().__init__()
        self.exit_code = exit_code


class SessionSignals(StopSignals):
    """Signals that end a session with `Stopped`, and are remembered.

    The exception alone is not enough: raised while the interpreter runs its hooks behind a fork,
    it is printed and forgotten.
    """

    def __init__(self) -> None:
        super().__init__(self._stop)

    @staticmethod
    def _stop(number: int, earlier: int) -> None:
        raise Stopped(128 + number)

    def check(self) -> None:
        """Raise `Stopped` if a signal came."""
        if self.exit_code is not None:
            raise Stopped(self.exit_code)


def sweep_runner(
    plan: AbPlan, signals: SessionSignals | None = None
) -> Callable[[str, Path], None]:
    """A function that measures one sweep of side 'a' or 'b' into a folder."""
    signals = signals or SessionSignals()

    def run(letter: str, folder: Path) -> None:
        side = plan.a if letter == "a" else plan.b
        argv = side.argv(folder.absolute())
        log = folder.with_suffix(".log")
        with log.open("wb") as out:
            try:
                child = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=side.environment(),
                    cwd=side.checkout or None,
                    preexec_fn=_die_with_parent if sys.platform == "linux" else None,
                )
            except OSError as error:
                raise EngineError(
                    f"{letter.upper()}: expected a command that starts, found "
                    f"{error.strerror}: {argv[0]!r}"
                ) from error
            try:
                code = _wait(child, letter, plan.sweep_timeout_s, signals)
            finally:
                with contextlib.suppress(OSError):
                    child.kill()
                child.wait()
        if code not in _MEASURED:
            tail = log.read_text(encoding="utf-8", errors="replace")[-_TAIL:].strip()
            raise EngineError(
                f"{letter.upper()}: expected exit status 0 of {' '.join(argv[:4])}, "
                f"found {code}\n{tail}"
            )

    return run


def _wait(
    child: subprocess.Popen[bytes], letter: str, timeout_s: float | None, signals: SessionSignals
) -> int:
    start = time.monotonic()
    while True:
        signals.check()
        with contextlib.suppress(subprocess.TimeoutExpired):
            # The poll costs a wake-up, not work beside what is being timed.
            return child.wait(_POLL_S)
        if timeout_s is not None and time.monotonic() - start > timeout_s:
            raise EngineError(
                f"{letter.upper()}: expected a sweep within {timeout_s:g} s, found it still running"
            )


def _die_with_parent() -> None:
    # A sweep that outlived a killed session would disturb the resumed one.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def quiet_machine(
    max_load: float,
    patience_s: float,
    busy: Callable[[], float] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[], str | None]:
    """A function that waits until other work is below `max_load` per cent of all cores.

    It returns None when the machine is quiet, and after `patience_s` seconds how busy it is.
    """
    if busy is None:
        import psutil

        def busy() -> float:
            return float(psutil.cpu_percent(interval=0.5))

    def wait() -> str | None:
        if max_load >= 100:
            return None  # any load is allowed: looking would only take time
        start = clock()
        while (load := busy()) > max_load:
            if clock() - start >= patience_s:
                return f"other load {load:.0f} % of all cores before the sweep"
        return None

    return wait


def default_seed() -> int:
    """A seed nobody chose, small enough to be typed again."""
    return int.from_bytes(os.urandom(2), "little")
