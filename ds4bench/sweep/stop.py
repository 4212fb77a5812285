"""How signals stop a sweep: at the end of the row in progress, or at once.

Nothing here knows what a row is; whoever measures asks `number` between rows and `now` within.
"""

from __future__ import annotations

import contextlib
import os
import signal

from engine.tooling.signals import StopSignals


class SweepSignals(StopSignals):
    """Ctrl-C once: finish the row; twice, SIGTERM or SIGHUP: stop now. Old handlers come back.

    While the model is still being loaded there is no row to finish, and one Ctrl-C stops, too.
    """

    def __init__(self) -> None:
        super().__init__(self._stop)
        self.now = False
        self.measuring = False

    def _stop(self, number: int, earlier: int) -> None:
        self.now = self.now or number != signal.SIGINT or earlier > 0 or not self.measuring
        if not self.now:
            with contextlib.suppress(OSError):  # nobody may be there to read it
                os.write(2, b"\nfinishing this row; Ctrl-C again stops at once\n")
