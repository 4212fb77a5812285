"""The timed process: a loop that reads commands, lets a worker answer, and writes replies.

Run as ``python -m ds4bench.worker.main MODULE:FUNCTION PARENT_PID``, where the function returns a
worker (`ds4bench.worker.worker.Worker`). Commands come on stdin, one line of JSON each; replies go
to the descriptor that was stdout; whatever a library prints goes to stderr. When stdin ends, the
process exits. It knows nothing of what the commands mean.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, cast

from ds4bench.worker.messages import Command, decode_command, encode_reply
from ds4bench.worker.worker import answer
from engine.errors import OptionError

W = TypeVar("W")
_PR_SET_PDEATHSIG = 1


class Serving(Protocol[W]):
    """A worker: whatever its commands can be run on."""

    @property
    def commands(self) -> Sequence[type[Command[W, object]]]: ...


def load_function(spec: str) -> Callable[[], Serving[object]]:
    """The function that 'module:name' names; it makes a worker."""
    module, _, name = spec.partition(":")
    if not name:
        raise OptionError(f"worker model: expected 'module:function', found {spec!r}")
    return cast("Callable[[], Serving[object]]", getattr(importlib.import_module(module), name))


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGKILL when the parent ends, however it ends (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    """Serve commands until stdin ends."""
    die_with_parent(int(sys.argv[2]))
    # Ctrl-C goes to the whole terminal group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.dup(1)
    os.dup2(2, 1)
    worker = load_function(sys.argv[1])()
    for line in sys.stdin.buffer:
        reply = answer(worker, decode_command(line, worker.commands))
        os_write_all(replies, encode_reply(reply))


def os_write_all(fd: int, data: bytes) -> None:
    """Write all of it; a pipe takes large replies in parts."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


if __name__ == "__main__":
    main()
