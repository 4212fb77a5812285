"""Speed curves that others published: their names, and where each comes from.

The curves are drawn beside own results as context; they are never judged against them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ds4bench.records.files import read_rows
from ds4bench.records.rows import SweepResult
from engine.errors import OptionError

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class PublishedCurve:
    """A published sweep. `source` names repository and commit, `date` is as exact as known."""

    name: str
    label: str
    source: str
    date: str


_CURVES = (
    PublishedCurve("gb10", "GB10", "TrevorS/ds4 @878a894", "2026-05-31"),
    PublishedCurve("gb10_mtp", "GB10, MTP", "TrevorS/ds4 @878a894", "2026-05-31"),
    PublishedCurve("gb10_2026_08", "GB10, Aug 2026", "antirez/ds4 @3e44ec3", "2026-08"),
    PublishedCurve("m2_ultra", "M2 Ultra", "antirez/ds4, first version", "2026-05"),
    PublishedCurve("m3_ultra", "M3 Ultra", "antirez/ds4 @3f90ee1", "2026"),
    PublishedCurve("m4_max", "M4 Max", "antirez/ds4", "2026-05"),
    PublishedCurve("m5_max", "M5 Max", "antirez/ds4 @7dc9680", "2026-05"),
)
CURVES = {curve.name: curve for curve in _CURVES}


def folder() -> Path:
    """Where the CSV files lie: speed-bench/reference of a checkout, else beside the package."""
    checkout = _PACKAGE.parent / "speed-bench" / "reference"
    return checkout if checkout.is_dir() else _PACKAGE / "reference_data"


def load(name: str) -> SweepResult:
    """Rows of a published curve; CSV precision, no environment.

    Raises
    ------
    OptionError
        If there is no curve of that name.
    """
    if name not in CURVES:
        raise OptionError(f"--vs: expected {', '.join(CURVES)}, found {name!r}")
    return read_rows(folder() / f"{name}.csv")


def parse_names(text: str | None) -> Sequence[str]:
    """Names out of a comma-separated option value, checked, in the order given, once each.

    Raises
    ------
    OptionError
        If one is unknown.
    """
    names = list(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))
    for name in names:
        if name not in CURVES:
            raise OptionError(f"--vs: expected {', '.join(CURVES)}, found {name!r}")
    return names
