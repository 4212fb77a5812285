"""Intervals and the numbers in them as text: what is unknown or unbounded is a dash."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

UNKNOWN = "-"


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided interval of an effect; what it measures, and in which unit, its owner says."""

    estimate: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the distance of the bounds; infinite or NaN where one is not known."""
        return (self.high - self.low) / 2


def bounds_text(interval: Interval | None, say: Callable[[float], str]) -> str:
    """Both bounds of an interval, each as `say` puts it."""
    if interval is None or not math.isfinite(interval.half_width):
        return UNKNOWN
    return f"{say(interval.low)} .. {say(interval.high)}"


def signed(value: float, digits: int, sign: bool = True) -> str:
    """A number with its sign and so many decimals; a rounded minus nothing is nothing."""
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}"


def finite(value: Any) -> Any:
    """The same structure with null for what strict JSON cannot say."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
