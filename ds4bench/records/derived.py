"""What is derived from values of a row: rates, percentiles, the place of a mode.

It knows no rows; unknown is None, never 0, NaN or infinity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.options import MODES


def ratio(amount: float | None, per: float | None) -> float | None:
    """A rate; None where either is unknown, or the rate would be no finite number."""
    if amount is None or per is None or not 0 < per < math.inf:
        return None
    value = amount / per
    return value if math.isfinite(value) else None


def percentile(values: Sequence[float], percent: float) -> float | None:
    """By linear interpolation between order statistics (numpy's default); None of no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def series_of(mode: str, text_class: str, prefix: str, users: int) -> str:
    """What is drawn as one curve and compared as one: the mode, with what else tells apart."""
    return " ".join(filter(None, (mode, text_class, prefix, f"x{users}" if users != 1 else "")))


def mode_of(series: str) -> str:
    """The mode of a series of rows (`SpeedRow.series`)."""
    return series.partition(" ")[0]


def mode_rank(mode: str) -> int:
    """Position of a mode, or of a series by its mode, in tables; unknown ones come last."""
    mode = mode_of(mode)
    return MODES.index(mode) if mode in MODES else len(MODES)


def ece(reliability: Sequence[float]) -> float | None:
    """Expected calibration error: how far confidences are from the shares that were kept."""
    drafts = sum(reliability[0::4])
    gaps = (abs(told - kept) for kept, told in zip(reliability[1::4], reliability[2::4]))
    return sum(gaps) / drafts if drafts else None


def brier(reliability: Sequence[float]) -> float | None:
    """Brier score: the mean squared difference between confidence and outcome."""
    drafts = sum(reliability[0::4])
    return sum(reliability[3::4]) / drafts if drafts else None
