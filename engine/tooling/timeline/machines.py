"""What the timeline model knows of machines: constants, each with where it comes from.

Only the H100 was measured by this project. The other machines have its latencies, scaled, and their
own memory: their figures are estimates until somebody measures them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine. Times are microseconds, rates MB per microsecond (TB/s).

    Parameters
    ----------
    title : str
    read : float
        Rate at which a large product reads weights.
    copy : float
        Bytes read and written a second by a device-to-device copy: what shares are of.
    gap : float
        From the end of a launch in a graph to the begin of one that waits for it alone.
    join : float
        More for every further launch that one waits for.
    early : float
        Latency that a launch hides by beginning before the one that it waits for has ended.
    prologue : float
        The same of a launch that asks for its first weights meanwhile.
    scale : float
        Latencies of kernels, relative to the H100's.
    blocks : int
        Multiprocessors; fewer blocks than these read at a lower rate.
    source : str
    """

    title: str
    read: float
    copy: float
    gap: float
    join: float
    early: float
    prologue: float
    scale: float
    blocks: int
    source: str


_GUESSED = "latencies of the H100, scaled; memory as published; not measured"
MACHINES = {
    "h100": Machine(
        "H100 SXM", 3.05, 2.936, 0.9, 0.4, 1.2, 2.2, 1.0, 132,
        "read, copy: speed-bench/h100-8-layers-steps.json; gap, early: estimates",
    ),
    "h200": Machine("H200 SXM", 4.4, 4.3, 0.9, 0.4, 1.2, 2.2, 1.0, 132, _GUESSED),
    "gb10": Machine("GB10", 0.234, 0.234, 1.1, 0.5, 1.2, 2.2, 1.2, 48, _GUESSED),
    "rtx-pro-6000": Machine("RTX PRO 6000", 1.55, 1.5, 1.0, 0.4, 1.2, 2.2, 1.1, 188, _GUESSED),
}  # fmt: skip
