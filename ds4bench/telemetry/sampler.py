"""Samples temperature, clocks, power, load and memory while a row is measured.

The sampler runs in the process that waits, never in the one that is timed.
Every source is optional and every read is guarded: a value that a machine does not give is None.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median
from typing import Any

import psutil

from ds4bench.records.rows import Telemetry
from ds4bench.telemetry.nvml import Gpu
from ds4bench.telemetry.powercap import PowerCap

INTERVAL_S = 1.0
# The waiting process wakes four times a second; where it has not for so long, it was stopped, too.
STANDSTILL_S = 3.0
# Forward jump of the wall clock beside the monotonic one that no daemon's slewing makes: a virtual
# machine was paused, or somebody set the clock. Both are worth a row's being measured once more.
CLOCK_JUMP_S = 2.0


@dataclass(slots=True)
class Reading:
    """One reading of everything; None where there is no sensor."""

    at: float  # seconds of the monotonic clock
    phase: str
    cpu_load_pct: float | None = None
    cpu_mhz: float | None = None
    cpu_temp_c: float | None = None
    mem_available_bytes: int | None = None
    swap_used_bytes: int | None = None
    child_rss_bytes: int | None = None
    gpu: dict[str, Any] = field(default_factory=dict)


class TelemetrySampler:
    """Takes a sample at most every `interval_s`, and condenses them to one row's record.

    Parameters
    ----------
    gpu : Gpu or None
        The device that computes; None where the processor does, since a GPU that idles beside it
        has a temperature and draws power, too.
    power : PowerCap or None
        The processor's energy, where it is what computes.
    pid : callable
        Id of the timed process, or None.
    """

    def __init__(
        self,
        gpu: Gpu | None,
        pid: Callable[[], int | None] = lambda: None,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
        power: PowerCap | None = None,
    ) -> None:
        self.gpu = gpu
        self.power = power
        self.pid = pid
        self.interval_s = interval_s
        self.clock = clock
        self.phase = ""
        self._samples: list[Reading] = []
        self._last = float("-inf")
        self._energy: dict[str, float] = {}
        self._phase_counter: float | None = None
        self._boot_gap, self._wall_gap = _boot_gap(), _wall_gap()
        self._seen: float | None = None  # when the processes were last seen to run or not
        self._stopped_s = 0.0
        _guard(psutil.cpu_percent)  # the first call starts the interval

    def begin(self) -> None:
        """Forget everything before this row, a phase that never ended included."""
        self.phase = ""
        self._samples.clear()
        self._energy.clear()
        self._boot_gap, self._wall_gap = _boot_gap(), _wall_gap()
        self._stopped_s = 0.0

    def enter(self, phase: str) -> None:
        """A timed phase ('prefill' or 'gen') begins; takes a sample."""
        self.phase = phase
        self._phase_counter = self._counter()
        self._last = float("-inf")
        self._seen = None
        self.tick()

    def leave(self) -> None:
        """The phase has ended; takes a sample and closes its energy."""
        self._last = float("-inf")
        self.tick()
        after = self._counter()
        before, phase = self._phase_counter, self.phase
        self.phase = ""
        # A counter that was reset in between says nothing.
        if before is not None and after is not None and after >= before:
            self._energy[phase] = after - before

    def tick(self, waited: float = 0.0) -> None:
        """Reading if it is time; costs about a millisecond when it does."""
        now = self.clock()
        if not self.phase:
            return
        self._watch(now)
        if now - self._last < self.interval_s:
            return
        self._last = now
        if self.power is not None:
            self.power.energy_j()  # a counter must not wrap around twice unseen
        self._samples.append(self._read(now))

    def _watch(self, now: float) -> None:
        """Notice a timed process that is stopped, and a time in which we did not run ourselves."""
        before, self._seen = self._seen, now
        gap = 0.0 if before is None else now - before
        pid = self.pid()
        state = _guard(lambda: psutil.Process(pid).status()) if pid else None
        if gap > STANDSTILL_S or state == psutil.STATUS_STOPPED:
            self._stopped_s += gap

    def row(self, earlier: Telemetry | None = None) -> Telemetry:
        """What happened since `begin`.

        Parameters
        ----------
        earlier : Telemetry or None
            Of the shared prefill: its energy is taken over.
        """
        samples = self._samples
        energy = {phase: self._joules(phase) for phase in ("prefill", "gen")}
        if energy["prefill"] is None and earlier is not None:
            energy["prefill"] = earlier.prefill_energy_j
        source = None
        if any(value is not None for value in energy.values()):
            source = "nvml-counter" if self._energy else "nvml-power"
            if self.power is not None:
                source = "rapl"
        slept = _boot_gap() - self._boot_gap
        jumped = _wall_gap() - self._wall_gap
        if jumped > CLOCK_JUMP_S:
            slept = max(slept, jumped)
        gpu = [s.gpu for s in samples]
        return Telemetry(
            n_samples=len(samples),
            cpu_load_pct=_over(fmean, [s.cpu_load_pct for s in samples[1:]]),
            cpu_mhz=_over(fmean, [s.cpu_mhz for s in samples]),
            cpu_temp_c=_over(max, [s.cpu_temp_c for s in samples]),
            mem_available_bytes=_over(min, [s.mem_available_bytes for s in samples]),
            swap_used_bytes=_over(max, [s.swap_used_bytes for s in samples]),
            child_rss_bytes=_over(max, [s.child_rss_bytes for s in samples]),
            gpu_temp_c=_over(max, [g.get("temp_c") for g in gpu]),
            gpu_sm_mhz=_over(median, [g.get("sm_mhz") for g in gpu]),
            gpu_mem_mhz=_over(median, [g.get("mem_mhz") for g in gpu]),
            gpu_util_pct=_over(fmean, [g.get("util_pct") for g in gpu]),
            gpu_power_w=_over(fmean, [g.get("power_w") for g in gpu]),
            gpu_mem_used_bytes=_over(max, [g.get("mem_used_bytes") for g in gpu]),
            gpu_throttle=_reasons([g.get("throttle") for g in gpu]),
            gpu_other_processes=_over(max, [g.get("other_processes") for g in gpu]),
            prefill_energy_j=energy["prefill"],
            gen_energy_j=energy["gen"],
            energy_source=source,
            suspended_s=slept if slept > 0.5 else None,
            stopped_s=self._stopped_s or None,
        )

    def _counter(self) -> float | None:
        if self.power is not None:
            return self.power.energy_j()
        return None if self.gpu is None else self.gpu.energy_j()

    def _joules(self, phase: str) -> float | None:
        """Counter difference where there is one, else power integrated over the samples."""
        if phase in self._energy:
            return self._energy[phase]
        mine = [s for s in self._samples if s.phase == phase]
        points = [(s.at, float(s.gpu["power_w"])) for s in mine if "power_w" in s.gpu]
        if len(points) < 2 or len(points) < len(mine):
            return None
        return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))

    def _read(self, now: float) -> Reading:
        memory = _guard(psutil.virtual_memory)
        swap = _guard(psutil.swap_memory)
        frequency = _guard(psutil.cpu_freq)
        pid = self.pid()
        process = _guard(lambda: psutil.Process(pid).memory_info().rss) if pid else None
        return Reading(
            now,
            self.phase,
            cpu_load_pct=_guard(psutil.cpu_percent),
            cpu_mhz=(frequency.current or None) if frequency else None,
            cpu_temp_c=_guard(hottest),
            mem_available_bytes=memory.available if memory else None,
            swap_used_bytes=swap.used if swap else None,
            child_rss_bytes=process,
            gpu={} if self.gpu is None else self.gpu.read(pid),
        )


def hottest() -> float | None:
    """Highest temperature of the processor's sensors in degrees Celsius; None without one."""
    sensors: dict[str, Any] = getattr(psutil, "sensors_temperatures", dict)()
    known = [
        float(entry.current)
        for name, entries in sensors.items()
        if name in ("coretemp", "k10temp", "zenpower", "cpu_thermal", "acpitz")
        for entry in entries
        if entry.current and 0 < entry.current < 150
    ]
    return max(known, default=None)


def _boot_gap() -> float:
    """Seconds that the machine has slept since boot, by a clock that runs on in sleep.

    That is CLOCK_BOOTTIME on Linux and CLOCK_MONOTONIC_RAW on macOS, where `time.monotonic` stands
    still; other systems do not say.
    """
    name = "CLOCK_MONOTONIC_RAW" if sys.platform == "darwin" else "CLOCK_BOOTTIME"
    clock = getattr(time, name, None)
    return 0.0 if clock is None else time.clock_gettime(clock) - time.monotonic()


def _wall_gap() -> float:
    """Seconds since 1970 at which the monotonic clock was 0, as the wall clock has it now."""
    return time.time() - time.monotonic()


def _over(combine: Callable[[list[Any]], Any], values: list[Any]) -> Any:
    known = [value for value in values if value is not None]
    return combine(known) if known else None


def _reasons(masks: list[str | None]) -> str | None:
    known = [mask for mask in masks if mask is not None]
    if not known:
        return None
    return "+".join(sorted({reason for mask in known for reason in mask.split("+") if reason}))


def _guard(read: Callable[[], Any]) -> Any:
    # Sensors fail in ways that their libraries do not list; a reading is never worth a row.
    try:
        return read()
    except Exception:
        return None
