"""Reads the facts of this machine: /sys, /proc, NVML, and what a short load shows.

Every source is optional: what cannot be read is None. Nothing here changes a setting, and nothing
here judges.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import psutil

from ds4bench.doctor.cached import cached_share
from ds4bench.doctor.facts import (
    Board,
    Device,
    Facts,
    Load,
    Memory,
    ModelFile,
    Processor,
    Warming,
)
from ds4bench.telemetry.nvml import Gpu
from ds4bench.telemetry.roofline import read_rates
from ds4bench.telemetry.sampler import hottest
from engine.tooling.results import locks
from engine.tooling.results.environment import cpu

ROOT = Path("/")
BUSY_S = 1.0  # of looking at other work before our own


def read_facts(gpu: Gpu, model: Path | None = None, root: Path = ROOT) -> Facts:
    """What can be read without any load; takes a tenth of a second.

    Parameters
    ----------
    gpu : Gpu
        Its facts are left out where there is none.
    model : Path or None
    root : Path
        Of /sys and /proc, for tests.
    """
    return Facts(
        system=f"{platform.system()} {platform.release()}",
        board=board(root),
        processor=processor(root),
        device=device(gpu),
        memory=memory(root),
        load=Load(load_1min=_guarded(lambda: psutil.getloadavg()[0])),
        model=None if model is None else model_file(model),
    )


def board(root: Path = ROOT) -> Board:
    """Vendor, product and firmware; a machine without DMI (or without leave) says nothing."""
    dmi = root / "sys/class/dmi/id"
    supplies = sorted((root / "sys/class/power_supply").glob("*"))
    online = [_text(s / "online") for s in supplies if _text(s / "type") == "Mains"]
    battery = any(_text(s / "type") == "Battery" for s in supplies)
    return Board(
        vendor=_text(dmi / "sys_vendor") or _text(dmi / "board_vendor"),
        product=_text(dmi / "product_name"),
        name=_text(dmi / "board_name"),
        bios=_text(dmi / "bios_version"),
        bios_date=_text(dmi / "bios_date"),
        ec=_text(dmi / "ec_firmware_release"),
        capsules=capsules(root),
        on_battery=None if not (battery and online) else "1" not in online,
    )


def capsules(root: Path = ROOT) -> tuple[str, ...]:
    """Versions of what can be updated, by UEFI's table of system resources; most need root."""
    entries = (root / "sys/firmware/efi/esrt/entries").glob("entry*")
    found = [_text(entry / "fw_version") for entry in entries]
    return tuple(sorted(f"0x{int(text):08x}" for text in found if text and text.isdecimal()))


def processor(root: Path = ROOT) -> Processor:
    """Name, cores, governor and quota."""
    found = cpu()
    name = found.get("name")
    if sys.platform == "darwin":
        name = _sysctl("machdep.cpu.brand_string") or name
    quota, throttled = quota_of(root)
    frequency = root / "sys/devices/system/cpu/cpu0/cpufreq"
    highest = found.get("max_khz")
    return Processor(
        name=name,
        logical_cores=found.get("logical_cores"),
        usable_cores=found.get("usable_cores"),
        virtual=found.get("virtual"),
        governor=_text(frequency / "scaling_governor"),
        frequency_driver=_text(frequency / "scaling_driver"),
        max_mhz=None if highest is None else highest / 1000,
        quota_cores=quota,
        throttled_periods=throttled,
    )


def quota_of(root: Path = ROOT) -> tuple[float | None, int | None]:
    """Cores' worth of time that control groups allow, and periods in which it was spent.

    Every level above this process counts; both versions of control groups are read.
    """
    quotas: list[float] = []
    throttled: int | None = None
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / (controllers and "cpu")
        parts = [p for p in path.split("/") if p and p != ".."]
        for depth in range(len(parts), -1, -1):
            folder = base.joinpath(*parts[:depth])
            quota = _quota(folder)
            if quota is None:
                continue
            quotas.append(quota)
            stat = re.search(r"^nr_throttled (\d+)", _text(folder / "cpu.stat") or "", re.M)
            throttled = (throttled or 0) + int(stat[1]) if stat else throttled
    return min(quotas, default=None), throttled


def _quota(folder: Path) -> float | None:
    words = (_text(folder / "cpu.max") or "").split()  # version 2: "max 100000" or "50000 100000"
    if len(words) != 2:
        words = [
            _text(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")
        ]  # version 1: -1 is none
    if all(word.isdigit() for word in words) and int(words[1]):
        return int(words[0]) / int(words[1])
    return None


def device(gpu: Gpu) -> Device | None:
    """What NVML says of the GPU at rest."""
    if not gpu.present:
        return None
    facts, now = gpu.facts(), gpu.read()
    return Device(
        name=facts.get("name"),
        driver=facts.get("driver"),
        vbios=facts.get("vbios"),
        power_limit_w=facts.get("power_limit_w"),
        power_default_w=facts.get("power_default_w"),
        max_sm_mhz=facts.get("max_sm_mhz"),
        temp_c=now.get("temp_c"),
        throttle=now.get("throttle"),
        other_processes=now.get("other_processes"),
    )


def memory(root: Path = ROOT) -> Memory:
    """Size, what is free, swap, and whether large pages are given."""
    seen, swap = _guarded(psutil.virtual_memory), _guarded(psutil.swap_memory)
    pages = _text(root / "sys/kernel/mm/transparent_hugepage/enabled") or ""
    chosen = re.search(r"\[(\w+)\]", pages)
    return Memory(
        total=seen.total if seen else None,
        available=seen.available if seen else None,
        swap_used=swap.used if swap else None,
        huge_pages=chosen[1] if chosen else None,
    )


def model_file(path: Path) -> ModelFile:
    """Where a model lies, and how much of it is in memory already."""
    kind = locks.file_system(path) or None
    return ModelFile(
        path=path.name,
        size=_guarded(lambda: path.stat().st_size),
        file_system=kind,
        network=None if kind is None else kind in locks.NETWORK_FILE_SYSTEMS,
        cached=cached_share(path),
    )


def busy_pct(wait_s: float = BUSY_S) -> float | None:
    """Share of all cores that others use, in per cent, over a wait."""
    found = _guarded(lambda: psutil.cpu_percent(interval=wait_s))
    return None if found is None else float(found)


def clock_mhz() -> float | None:
    """Mean of the cores' clocks now."""
    found = _guarded(psutil.cpu_freq)
    return (found.current or None) if found else None


class Stretch:
    """A stretch of load: passes of reading memory (or of a device's copies), and sensors between.

    Parameters
    ----------
    seconds : float
        At least one pass is made, however short.
    passes : callable
        Makes some passes and returns their rates in bytes per second.
    gpu : Gpu
        Its sensors count where the device is what is loaded.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(
        self,
        seconds: float,
        passes: Callable[[], Sequence[float]],
        gpu: Gpu | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rates: list[float] = []
        self.clocks: list[float] = []
        self.readings: list[dict[str, Any]] = []
        temps: list[tuple[float, float]] = []
        start = clock()
        while True:
            self.rates += passes()
            at = clock() - start
            reading = gpu.read() if gpu is not None else {}
            self.readings.append(reading)
            mhz = clock_mhz()
            self.clocks += [] if mhz is None else [mhz]
            temp = reading.get("temp_c") if gpu is not None else _guarded(hottest)
            temps += [] if temp is None else [(at, float(temp))]
            if at >= seconds:
                break
        self.warming = warming_of(at, temps, self.rates)

    def over(self, name: str) -> float | None:
        """Median of one of the device's readings."""
        known = [float(r[name]) for r in self.readings if r.get(name) is not None]
        return median(known) if known else None

    @property
    def throttle(self) -> str | None:
        """Every reason that was seen."""
        seen = [r["throttle"] for r in self.readings if r.get("throttle") is not None]
        if not seen:
            return None
        return "+".join(sorted({word for text in seen for word in text.split("+") if word}))


def warming_of(
    seconds: float, temps: Sequence[tuple[float, float]], rates: Sequence[float]
) -> Warming:
    """What a stretch of load did to temperature and rate.

    Parameters
    ----------
    temps : sequence of (float, float)
        Seconds since the start, degrees Celsius.
    rates : sequence of float
        In order; the last third beside the first says what was kept.
    """
    third = len(rates) // 3
    kept = median(rates[-third:]) / median(rates[:third]) if third else None
    late = [(at, temp) for at, temp in temps if at >= seconds / 2]
    slope = None
    if len(late) > 2 and any(b[0] > a[0] for a, b in pairwise(late)):
        at, temp = np.array(late).T
        slope = float(np.polyfit(at, temp, 1)[0] * 60)
    return Warming(
        seconds,
        start_c=temps[0][1] if temps else None,
        end_c=fmean(temp for _, temp in late) if late else None,
        slope_c_per_min=slope,
        kept=kept,
    )


def read_passes(threads: int) -> Callable[[], Sequence[float]]:
    """Passes over the host's memory for a `Stretch`."""
    return lambda: read_rates(threads)


def _sysctl(name: str) -> str | None:
    done = _guarded(lambda: subprocess.run(["sysctl", "-n", name], capture_output=True, timeout=5))
    return done.stdout.decode(errors="replace").strip() or None if done else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def _guarded(read: Callable[[], Any]) -> Any:
    # Sensors fail in ways that their libraries do not list; none is worth a run.
    try:
        return read()
    except Exception:
        return None
