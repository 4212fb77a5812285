"""Decides which pairs may count: not those that throttling, slow clocks or swap disturbed.

The rules see rows and their telemetry only; they read no sensor and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from ds4bench.compare.samples import Arm
from ds4bench.records.rows import SpeedRow

CLOCK_DROP = 0.05  # of the GPU's clock against the session's median
CPU_CLOCK_DROP = 0.10  # of the cores' mean clock, which wanders more
# A cap on power is a setting of the machine, and speed-bench advises one: it disturbs a pair only
# if it held back one side more often than the other. Share of rows.
POWER_CAP = "sw-power-cap"
CAP_UNEVEN = 0.25
SWAP_GROWTH = 64 << 20  # bytes
MAX_DROPPED = 0.30  # share of pairs beyond which the machine is unfit
MIN_JUDGED = 6  # pairs before that share means anything


def reasons(pair: Sequence[Arm], earlier: Sequence[Arm]) -> list[str]:
    """Why a pair must not count; empty if it may.

    Parameters
    ----------
    pair : sequence of Arm
        Both sides of the pair.
    earlier : sequence of Arm
        Sides of the session's valid pairs so far, whose median clocks are the measure.
    """
    rows = [row for arm in pair for row in arm.rows]
    found = []
    throttles = sorted({t for row in rows for t in _throttles(row) if t != POWER_CAP})
    if throttles:
        found.append(f"GPU throttled: {' '.join(throttles)}")
    capped = [sum(POWER_CAP in _throttles(row) for row in arm.rows) for arm in pair]
    shares = [count / max(len(arm.rows), 1) for count, arm in zip(capped, pair)]
    if max(shares, default=0.0) - min(shares, default=0.0) > CAP_UNEVEN:
        of = " and ".join(f"{count} of {len(arm.rows)}" for count, arm in zip(capped, pair))
        found.append(f"GPU throttled unevenly: {POWER_CAP} in {of} rows")
    others = max((row.telemetry.gpu_other_processes or 0 for row in rows), default=0)
    if others:
        found.append(f"{others} other process(es) on the GPU")
    if any((row.telemetry.suspended_s or 0) > 1 for row in rows):
        found.append("the machine slept")
    swap = [s for row in rows if (s := row.telemetry.swap_used_bytes) is not None]
    if swap and max(swap) - swap[0] > SWAP_GROWTH:
        found.append(f"swap grew by {(max(swap) - swap[0]) >> 20} MiB")
    before = [row for arm in earlier for row in arm.rows]
    for name, limit, unit in (
        ("gpu_sm_mhz", CLOCK_DROP, "GPU clock"),
        ("cpu_mhz", CPU_CLOCK_DROP, "CPU clock"),
    ):
        usual, now = (
            _median(before, name),
            min((m for arm in pair if (m := _median(arm.rows, name)) is not None), default=None),
        )
        if usual and now is not None and now < (1 - limit) * usual:
            found.append(f"{unit} fell to {now:.0f} MHz from {usual:.0f}")
    return found


def unfit(n_valid: int, n_dropped: int) -> bool:
    """Whether too many pairs were dropped for the rest to be trusted."""
    total = n_valid + n_dropped
    return total >= MIN_JUDGED and n_dropped > MAX_DROPPED * total


def _throttles(row: SpeedRow) -> list[str]:
    return [reason for reason in (row.telemetry.gpu_throttle or "").split("+") if reason]


def _median(rows: Sequence[SpeedRow], name: str) -> float | None:
    values = [v for row in rows if (v := getattr(row.telemetry, name)) is not None]
    return median(values) if values else None
