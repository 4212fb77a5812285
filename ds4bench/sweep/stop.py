"""How signals stop a sweep: at the end of the row in progress, or at once.

Nothing here knows what a row is; whoever measures asks `number` between rows and `now` within.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from types import FrameType


class StopSignals:
    """Ctrl-C once: finish the row; twice, SIGTERM or SIGHUP: stop now. Old handlers come back.

    While the model is still being loaded there is no row to finish, and one Ctrl-C stops, too.
    """

    _NOW = (signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.number: int | None = None
        self.now = False
        self.measuring = False
        self._old: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, *self._NOW):
            self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.now = self.now or number in self._NOW or self.number is not None or not self.measuring
        self.number = self.number or number
        if number == signal.SIGINT and not self.now:
            with contextlib.suppress(OSError):  # nobody may be there to read it
                os.write(2, b"\nfinishing this row; Ctrl-C again stops at once\n")

    @property
    def exit_code(self) -> int | None:
        return None if self.number is None else 128 + self.number
