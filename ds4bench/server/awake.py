"""Notices, beside requests to a server, that this machine slept or stood still.

A client that was paused has long times and an innocent look: nothing else in its record tells them
from a slow server's. What the server's machine does is not known here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from ds4bench.records.rows import Telemetry
from ds4bench.telemetry.sampler import TelemetrySampler

# Wakes of the watching thread; `sampler.STANDSTILL_S` is many of them.
BEAT_S = 0.25


class Awake:
    """Beats in a thread of its own for as long as its block runs.

    Parameters
    ----------
    clock : callable
        Monotonic seconds.
    beat_s : float
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, beat_s: float = BEAT_S) -> None:
        # Sensors are those of the client's machine, and say nothing of what is measured.
        self._sampler = TelemetrySampler(None, interval_s=float("inf"), clock=clock)
        self._beat_s = beat_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Awake:
        self._sampler.begin()
        self._sampler.enter("server")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._sampler.leave()

    def _beat(self) -> None:
        while not self._over.wait(self._beat_s):
            self._sampler.tick()

    def state(self) -> Telemetry:
        """Seconds in which this machine slept or did not run, if any."""
        seen = self._sampler.row()
        return Telemetry(suspended_s=seen.suspended_s, stopped_s=seen.stopped_s)
