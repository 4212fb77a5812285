"""What the user asks of a running run: pause, jump to a question, quit.

The screen and signal handlers set it; the run reads it between tokens. It knows neither of them.
"""

from __future__ import annotations

import threading

POLL_S = 0.1


class Control:
    """Wishes of the user, safe to set from any thread and from a signal handler."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.paused = False
        self.quitting = False
        self._jump: int | None = None

    def pause(self, on: bool | None = None) -> None:
        """Pause or go on; None changes over."""
        with self._changed:
            self.paused = not self.paused if on is None else on
            self._changed.notify_all()

    def quit(self) -> None:
        """End the run after the present token."""
        # Called from signal handlers too, where waiting for a lock could be for ever.
        self.quitting = True
        self.paused = False

    def jump(self, n: int) -> None:
        """Answer job n now."""
        with self._changed:
            self._jump = n
            self._changed.notify_all()

    def take_jump(self) -> int | None:
        """The job that was asked for last, once."""
        with self._changed:
            n, self._jump = self._jump, None
            return n

    def interrupts(self) -> bool:
        """Whether the reply in progress is to be left."""
        return self.quitting or self._jump is not None

    def wait_while_paused(self) -> None:
        """Return once the run may go on."""
        with self._changed:
            while self.paused and not self.interrupts():
                self._changed.wait(POLL_S)
