"""Signals that ask a program to end: noted while a block runs; old handlers come back behind it.

What happens on a signal is the caller's to say: finish a row, stop between tokens, end at once.
A signal that was ignored when the program started stays ignored: `nohup` asks for just that.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any, TypeVar

Entered = TypeVar("Entered", bound="StopSignals")
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """Context manager that notes signals and hands each of them to a function.

    Parameters
    ----------
    take : callable
        Called in the signal handler with the signal's number and how many came before it; what it
        raises is raised where the program is at that moment.
    numbers : sequence of int

    Attributes
    ----------
    number : int or None
        The first signal that came.
    count : int
        How many came.
    """

    def __init__(self, take: Callable[[int, int], None], numbers: Sequence[int] = STOPPING) -> None:
        self._take = take
        self._numbers = numbers
        self._before: dict[int, Any] = {}
        self.number: int | None = None
        self.count = 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        earlier = self.count
        self.count += 1
        if self.number is None:
            self.number = number
        self._take(number, earlier)

    def __enter__(self: Entered) -> Entered:
        for number in self._numbers:
            before = signal.getsignal(number)
            # Whoever started us asked that this one be ignored (nohup, a shell's background job).
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int | None:
        """Status of a program that ended because of a signal; None where none came."""
        return None if self.number is None else 128 + self.number
