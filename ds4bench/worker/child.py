"""The parent's end of the timed process: requests, watchdog, and what its death means."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import IO, TypeVar

from ds4bench.worker.messages import Command, Failure, decode_reply, encode_command
from engine.errors import DEVICE_HUNG

W = TypeVar("W")
R = TypeVar("R")

DEFAULT = "ds4bench.worker.model:open_worker"
_POLL_S = 0.25
_TAIL = 2000
_STATUS: dict[int, str] = {
    signal.SIGSEGV: "crashed_segv",
    signal.SIGBUS: "crashed_bus",
    signal.SIGKILL: "crashed_oom",
    signal.SIGABRT: "crashed_abort",
}


class ChildDied(Exception):
    """The timed process ended while a reply was due.

    Attributes
    ----------
    status : str
        Row status: crashed_* or timeout.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


class Interrupted(Exception):
    """A signal asked to stop now."""


class Child:
    """One worker process, restarted on demand.

    Parameters
    ----------
    worker : str
        'module:function' that makes the worker.
    tick : callable
        Called a few times a second while waiting, with seconds since the request began.
    stop_now : callable
        True when waiting must end with `Interrupted`.
    """

    def __init__(
        self,
        worker: str = DEFAULT,
        tick: Callable[[float], None] = lambda seconds: None,
        stop_now: Callable[[], bool] = lambda: False,
    ) -> None:
        self.worker = worker
        self.tick = tick
        self.stop_now = stop_now
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._buffer = b""

    @property
    def pid(self) -> int | None:
        """Process id while one runs."""
        return self._process.pid if self._process else None

    def request(self, timeout_s: float, command: Command[W, R]) -> R:
        """Send one command and wait for its reply; starts the process if none runs.

        Raises
        ------
        ChildDied
            If the process ended or did not answer in time; it is gone then.
        EngineError
            As the worker reported it.
        Interrupted
            If `stop_now` says so; the process is gone then.
        """
        process = self._process or self._start()
        try:
            assert process.stdin is not None
            process.stdin.write(encode_command(command))
            process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        reply = decode_reply(self._receive(timeout_s), command)
        if isinstance(reply, Failure):
            raise reply.error()
        return reply

    def kill(self) -> None:
        """End the process at once and wait for it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                pass  # the buffered command that nobody will read
        if self._stderr is not None:
            self._stderr.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        # A file, not a pipe: nobody reads while the model is being timed.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._buffer = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ds4bench.worker.main", self.worker, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=worker_environment(os.environ),
        )
        self.starts += 1
        return self._process

    def _receive(self, timeout_s: float) -> bytes:
        process = self._process
        assert process is not None and process.stdout is not None
        fd = process.stdout.fileno()
        begin = time.monotonic()
        while b"\n" not in self._buffer:
            waited = time.monotonic() - begin
            if self.stop_now():
                self.kill()
                raise Interrupted
            if waited > timeout_s:
                self.kill()
                raise ChildDied("timeout", f"no answer within {timeout_s:.0f} s")
            self.tick(waited)
            if not select.select([fd], [], [], min(_POLL_S, max(timeout_s - waited, 0.01)))[0]:
                continue
            data = os.read(fd, 1 << 20)
            if not data:
                raise self._died()
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _died(self) -> ChildDied:
        process = self._process
        assert process is not None
        try:
            code = process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            code = None
        tail = self._tail()
        self.kill()
        if code is not None and code < 0:
            status = _STATUS.get(-code, "crashed_other")
            reason = f"ended by {_signal_name(-code)}"
        elif code == DEVICE_HUNG:
            status, reason = "timeout", f"ended with status {code}"
        else:
            status, reason = "crashed_other", f"ended with status {code}"
        return ChildDied(status, f"timed process {reason}" + (f": {tail}" if tail else ""))

    def _tail(self) -> str:
        assert self._stderr is not None
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _TAIL))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""


def _signal_name(number: int) -> str:
    """Its name, or its number where it has none (real-time signals)."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def worker_environment(parent: Mapping[str, str]) -> dict[str, str]:
    """The timed process's variables: the parent's, plus what keeps it able to import us."""
    child = dict(parent)
    # Not the working folder but the parent's import path: `-m` would add whatever lies there.
    child["PYTHONPATH"] = os.pathsep.join(p or os.getcwd() for p in sys.path)
    child["PYTHONSAFEPATH"] = "1"
    return child
