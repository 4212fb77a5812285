"""Tells a row that something disturbed from one that may be trusted.

The evidence is what was recorded beside the clock: kernels that were compiled, seconds of each
step, and the machine's state. Nothing here measures, and nothing here decides what becomes of the
row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from ds4bench.records.rows import Telemetry

# One step that waits for a scheduler or a page takes tens of milliseconds longer, which is noise
# that repeated runs show. Beyond half a second and ten times the usual step it stood still:
# speculative steps differ by a few times at most.
STALL_S = 0.5
STALL_FACTOR = 10.0
# Reasons for which a GPU slows down that nobody asked for. A power limit is a setting of its owner.
THROTTLES = ("hw-slowdown", "sw-thermal", "hw-thermal", "hw-power-brake")
# What is over when it has been noticed. A hot GPU is as hot in the next row.
PASSING = ("compiled", "suspended", "stalled")


@dataclass(frozen=True, slots=True)
class Trouble:
    """Status and message of a row that was measured and cannot be trusted."""

    status: str
    message: str


def trouble_of(telemetry: Telemetry, compiled: int, step_s: Sequence[float] = ()) -> Trouble | None:
    """What disturbed a prefill or a decode window; None where nothing is known to have.

    Parameters
    ----------
    telemetry : Telemetry
        Of the time in question.
    compiled : int
        How often the compiler was at work inside the clock, for compiling or for loading.
    step_s : sequence of float
        Seconds of each decode step.
    """
    if compiled:
        text = f"kernels were compiled or loaded inside the clock ({compiled} times)"
        return Trouble("compiled", text)
    if telemetry.suspended_s:
        return Trouble("suspended", f"the machine slept for {telemetry.suspended_s:.1f} s")
    if telemetry.stopped_s:
        return Trouble("stalled", f"the process stood still for {telemetry.stopped_s:.1f} s")
    if step_s:
        usual, worst = median_low(step_s), max(step_s)
        if worst - usual > STALL_S and worst > STALL_FACTOR * usual:
            place = step_s.index(worst) + 1
            text = f"step {place} took {worst:.3g} s beside a median of {usual:.3g} s"
            return Trouble("stalled", text)
    reasons = [word for word in (telemetry.gpu_throttle or "").split("+") if word in THROTTLES]
    if reasons:
        return Trouble("throttled", f"the GPU slowed itself down: {', '.join(reasons)}")
    return None
