"""Counts work, for tests of cost: lines that Python runs, and how processor time grows.

A count is the same on a busy machine as on an idle one, so it can be asserted where seconds cannot.
Neither function looks at a wall clock.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

# Linear work of ten times the size takes ten times as long, and up to twice that where it leaves a
# cache (20 was seen for one word of 750 kB); quadratic work takes a hundred times as long.
MOST_GROWTH = 30
_LEAST_S = 0.01  # below this the resolution of the clock, not the work, decides the quotient


def lines_run(act: Callable[[], object]) -> int:
    """Number of lines of Python that `act` runs in this thread, those of its callees included.

    Work inside extension modules is not counted: pair this with a limit of bytes or allocations.
    """
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


def growth(act: Callable[[int], object], small: int) -> float:
    """Processor time of `act(10 * small)` in this thread, over that of `act(small)`.

    The best of three counts for each size. For work inside extension modules, whose operations
    cannot be counted from outside. A fast machine does `small` below the clock's resolution: the
    size is doubled, a few times at most, until its time can be measured.
    """

    def cost(n: int) -> float:
        best = float("inf")
        for _ in range(3):
            start = time.thread_time()
            act(n)
            best = min(best, time.thread_time() - start)
        return best

    act(small)  # imports, compiled patterns and first pages are nobody's growth
    for _ in range(6):
        if (least := cost(small)) >= _LEAST_S:
            break
        small *= 2
    return cost(10 * small) / max(least, _LEAST_S)


class CountedBytes(bytes):
    """Bytes that add up how many of them slices copied."""

    copied = 0

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        if isinstance(key, slice):
            self.copied += len(part)
        return part
