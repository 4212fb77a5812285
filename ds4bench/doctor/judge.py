"""Facts to findings: a verdict for each thing that a figure depends on, and what to do.

The rules see facts only, so that recorded ones are judged as live ones are. Where a known machine
gives a range, the range counts; elsewhere a fact is judged by itself.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from ds4bench.doctor.facts import Device, Facts
from ds4bench.doctor.known import Profile, profile_of

GIB = 1 << 30
# Shares below which a rate, a clock or a quota is worth a look, and below which it is another one.
SUSPECT_SPREAD, UNFIT_SPREAD = 0.15, 0.35  # median of passes below the best
SUSPECT_CLOCK, UNFIT_CLOCK = 0.75, 0.5  # of the highest clock
SUSPECT_KEPT, UNFIT_KEPT = 0.95, 0.85  # of the rate at the start of a stretch of load
GOOD_BANDWIDTH, UNFIT_BANDWIDTH = 0.70, 0.50  # of a device's nominal one, by a copy
SUSPECT_BUSY, UNFIT_BUSY = 10.0, 40.0  # per cent of all cores
SUSPECT_SLOPE = 6.0  # degrees per minute at the end of a stretch: not yet settled
HOT_C = 88.0
SWAP_USED = 256 << 20
CACHED = 0.9
THROTTLES = ("hw-slowdown", "sw-thermal", "hw-thermal", "hw-power-brake")


class Verdict(enum.Enum):
    """What a fact means for a figure, from best to worst."""

    GOOD = "good"
    UNKNOWN = "not known"
    SUSPECT = "suspect"
    UNFIT = "unfit"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was found, what was expected, and what to do about the difference."""

    name: str
    verdict: Verdict
    found: str
    expected: str = ""
    advice: str = ""
    source: str = ""

    def to_record(self) -> dict[str, Any]:
        record = {**asdict(self), "verdict": str(self.verdict)}
        return {name: value for name, value in record.items() if value}


def worst(findings: Sequence[Finding]) -> Verdict:
    """The verdict of a machine; what nobody can say does not count against it."""
    order = (Verdict.GOOD, Verdict.SUSPECT, Verdict.UNFIT)
    known = [f.verdict for f in findings if f.verdict is not Verdict.UNKNOWN]
    return max(known, key=order.index, default=Verdict.UNKNOWN)


def judge(facts: Facts, machine: str | None = None) -> list[Finding]:
    """Every finding, in the order of the table.

    Parameters
    ----------
    facts : Facts
    machine : str or None
        Name of a known machine, where its parts do not tell it.
    """
    profile = profile_of(facts, machine)
    return [
        *_machine(facts, profile),
        *_firmware(facts, profile),
        *_processor(facts),
        *_device(facts, profile),
        *_bandwidth(facts, profile),
        *_warming(facts),
        *_surroundings(facts),
        *_model(facts),
    ]


def _grade(value: float, suspect: float, unfit: float) -> Verdict:
    """Of a value that should be high."""
    if value < unfit:
        return Verdict.UNFIT
    return Verdict.SUSPECT if value < suspect else Verdict.GOOD


def _machine(facts: Facts, profile: Profile | None) -> Iterator[Finding]:
    processor, device, board = facts.processor, facts.device, facts.board
    name = (device and device.name) or processor.name
    title = f"{name} ({profile.memory.title})" if profile else name
    if processor.virtual:
        yield Finding(
            "machine", Verdict.SUSPECT, f"{title}, virtual", "a machine of your own",
            "neighbours share its caches, memory and clocks: compare in turns (ds4-bench ab) only",
        )  # fmt: skip
    else:
        yield Finding("machine", Verdict.GOOD if name else Verdict.UNKNOWN, title or "no name")
    if board.on_battery is not None:
        bad = board.on_battery
        yield Finding(
            "power source",
            Verdict.UNFIT if bad else Verdict.GOOD,
            "battery" if bad else "mains",
            "mains" if bad else "",
            "plug it in: clocks on battery are others" if bad else "",
        )


def _firmware(facts: Facts, profile: Profile | None) -> Iterator[Finding]:
    board, device = facts.board, facts.device
    versions = [
        ("bios", board.bios),
        ("ec", board.ec),
        ("vbios", device.vbios if device else None),
        *(("capsule", version) for version in board.capsules),
    ]
    known = [(part, version) for part, version in versions if version]
    if not known:
        linux = (facts.system or "Linux").startswith("Linux")
        how = "run once with the right to read /sys/class/dmi/id, and " if linux else ""
        yield Finding(
            "firmware", Verdict.UNKNOWN, "no version readable", "", f"{how}keep the figures apart"
        )
    for part, version in known:
        found = _version(part, version, profile)
        if part == "bios" and board.bios_date:
            found = replace(found, found=f"{version} ({board.bios_date})")
        # Capsules of parts that nobody has described would be lines of numbers.
        if part != "capsule" or found.expected:
            yield found


def _version(part: str, version: str, profile: Profile | None) -> Finding:
    """One version beside the baselines of its part; several parts may be counted by one name."""
    baselines = [b for b in profile.firmware if b.part == part] if profile else []
    source = profile.sources.get("firmware", "") if profile else ""
    judged = [(b, b.holds(version)) for b in baselines]
    for baseline, holds in judged:
        if holds is False:
            return Finding(
                baseline.name or part, Verdict.UNFIT, version, f"{baseline.shown} or later",
                "update it (fwupdmgr update), then measure again. "
                + (profile.note if profile else ""), source,
            )  # fmt: skip
    for baseline, holds in judged:
        if holds:
            expected = f"{baseline.shown} or later" if part == "capsule" else ""
            return Finding(baseline.name or part, Verdict.GOOD, version, expected)
    if not baselines or part == "capsule":
        return Finding(part, Verdict.GOOD, version)
    return Finding(
        part, Verdict.UNKNOWN, version, f"a version like {baselines[0].shown}",
        "no baseline is known for this vendor's numbers: make sure that every update is "
        "installed (fwupdmgr get-updates)", source,
    )  # fmt: skip


def _processor(facts: Facts) -> Iterator[Finding]:
    processor = facts.processor
    if processor.governor:
        driven = (processor.frequency_driver or "").startswith(("intel_pstate", "amd-pstate-epp"))
        slow = processor.governor == "powersave" and not driven
        yield Finding(
            "governor",
            Verdict.SUSPECT if slow else Verdict.GOOD,
            f"{processor.governor} ({processor.frequency_driver or 'driver not known'})",
            "performance" if slow else "",
            "set it (cpupower frequency-set -g performance)" if slow else "",
        )
    if processor.loaded_mhz and processor.max_mhz:
        share = processor.loaded_mhz / processor.max_mhz
        # All cores together clock lower than the one that the highest clock is told for.
        verdict = _grade(share, 0.6, 0.35)
        yield Finding(
            "processor clock", verdict,
            f"{processor.loaded_mhz:.0f} MHz under load, {100 * share:.0f} % of the highest",
            "" if verdict is Verdict.GOOD else "60 % or more",
            "" if verdict is Verdict.GOOD else "look for heat, a power profile or a cap",
        )  # fmt: skip
    cores = processor.usable_cores
    if processor.quota_cores is not None and cores:
        short = processor.quota_cores < cores
        yield Finding(
            "processor quota",
            Verdict.UNFIT if short else Verdict.GOOD,
            f"{processor.quota_cores:g} cores' worth of time for {cores} cores",
            f"{cores} or none" if short else "",
            "threads are stopped when it is spent: raise the quota (docker --cpus), or give -t "
            f"{max(1, int(processor.quota_cores))} and bind as many cores"
            if short
            else "",
        )
    elif cores:
        yield Finding("processor quota", Verdict.GOOD, f"none, {cores} cores")


def _device(facts: Facts, profile: Profile | None) -> Iterator[Finding]:
    device = facts.device
    if device is None:
        return
    if device.driver:
        yield Finding("driver", Verdict.GOOD, device.driver)
    yield from _power(device, profile)
    if device.throttle is not None:
        reasons = [word for word in device.throttle.split("+") if word]
        hot = [word for word in reasons if word in THROTTLES]
        yield Finding(
            "throttling",
            Verdict.UNFIT if hot else Verdict.GOOD,
            ", ".join(reasons) or "none",
            "none" if hot else "",
            "cool it, or lower its power limit until it holds" if hot else "",
        )
    loaded, highest = device.loaded_sm_mhz, device.max_sm_mhz
    if loaded is not None:
        limits = profile.sm_mhz if profile else None
        if limits is None and highest:
            limits = (SUSPECT_CLOCK * highest, UNFIT_CLOCK * highest)
        verdict = _grade(loaded, *limits) if limits else Verdict.UNKNOWN
        good = verdict in (Verdict.GOOD, Verdict.UNKNOWN)
        yield Finding(
            "GPU clock", verdict, f"{loaded:.0f} MHz under load",
            "" if good or limits is None else f"{limits[0]:.0f} MHz or more",
            "" if good else "look for a locked clock (nvidia-smi -rgc) and the power supply; some "
            "machines stay slow until they were unplugged for a minute",
            profile.sources.get("clock", "") if profile and not good else "",
        )  # fmt: skip
    others = device.other_processes
    if others:
        yield Finding(
            "GPU sharing", Verdict.UNFIT, f"{others} other process(es) on the GPU", "none",
            "end them (nvidia-smi shows them)",
        )  # fmt: skip


def _power(device: Device, profile: Profile | None) -> Iterator[Finding]:
    limit = device.power_limit_w
    if limit is None:
        yield Finding("power limit", Verdict.UNKNOWN, "the device does not say")
        return
    usual = device.power_default_w or (profile.power_w if profile else None)
    share = limit / usual if usual else None
    text = f"{limit:.0f} W" + (f" of {usual:.0f} W" if usual else "")
    # A fixed limit makes figures repeat; it only must be the same on both sides.
    low = share is not None and share < 0.5
    capped = share is not None and share < 0.98
    yield Finding(
        "power limit",
        Verdict.SUSPECT if low else Verdict.GOOD,
        text,
        "the same limit for every run" if capped else "",
        "figures hold for this limit only; nvidia-smi -pl sets another" if capped else "",
    )


def _bandwidth(facts: Facts, profile: Profile | None) -> Iterator[Finding]:
    memory, device = facts.memory, facts.device
    sets = [("memory bandwidth", memory.rates, f", {memory.threads} threads")]
    if device is not None:
        sets.append(("GPU bandwidth", device.memory_rates, ", copy"))
    for name, rates, how in sets:
        if not rates:
            continue
        best, usual, lowest = max(rates), median(rates), min(rates)
        spread = 1 - usual / best
        verdict = _grade(-spread, -SUSPECT_SPREAD, -UNFIT_SPREAD)
        found = (
            f"{best / 1e9:.1f} GB/s (median {usual / 1e9:.1f}, lowest {lowest / 1e9:.1f} of "
            f"{len(rates)}{how})"
        )
        expected = advice = source = ""
        if verdict is not Verdict.GOOD:
            expected = f"passes within {100 * SUSPECT_SPREAD:.0f} %"
            advice = "something else uses the memory, or clocks change: end it and look again"
        nominal = profile.memory.nominal if profile and name == "GPU bandwidth" else None
        if nominal is not None and profile is not None:
            share = best / nominal
            found += f", {100 * share:.0f} % of nominal"
            level = _grade(share, GOOD_BANDWIDTH, UNFIT_BANDWIDTH)
            if level is not Verdict.GOOD:
                verdict = max(verdict, level, key=list(Verdict).index)
                expected = f"{100 * GOOD_BANDWIDTH:.0f} % of {nominal / 1e9:.0f} GB/s"
                advice = "look at the memory clock, ECC and other users of the device"
            source = profile.memory.source if level is not Verdict.GOOD else ""
        yield Finding(name, verdict, found, expected, advice, source)


def _warming(facts: Facts) -> Iterator[Finding]:
    warming = facts.warming
    if warming is None:
        return
    if warming.kept is not None:
        verdict = _grade(warming.kept, SUSPECT_KEPT, UNFIT_KEPT)
        good = verdict is Verdict.GOOD
        yield Finding(
            "speed under load", verdict,
            f"{100 * warming.kept:.0f} % of the first rate after {warming.seconds:.0f} s",
            "" if good else f"{100 * SUSPECT_KEPT:.0f} % or more",
            "" if good else "heat, a power limit or a quota takes it: cool the machine, fix its "
            "limit, and let it settle before measuring",
        )  # fmt: skip
    if warming.end_c is None:
        yield Finding("temperature", Verdict.UNKNOWN, "no sensor readable")
        return
    slope = warming.slope_c_per_min or 0.0
    hot, rising = warming.end_c >= HOT_C, slope > SUSPECT_SLOPE
    text = f"{warming.end_c:.0f} °C, {slope:+.1f} °C a minute at the end of {warming.seconds:.0f} s"
    yield Finding(
        "temperature",
        Verdict.SUSPECT if hot or rising else Verdict.GOOD,
        text,
        f"below {HOT_C:.0f} °C and settled" if hot or rising else "",
        "let it warm up before measuring, or cool it: the first rows would be others"
        if hot or rising
        else "",
    )


def _surroundings(facts: Facts) -> Iterator[Finding]:
    busy = facts.load.busy_pct
    if busy is not None:
        verdict = _grade(-busy, -SUSPECT_BUSY, -UNFIT_BUSY)
        good = verdict is Verdict.GOOD
        yield Finding(
            "other work", verdict, f"{busy:.0f} % of all cores",
            "" if good else f"below {SUSPECT_BUSY:.0f} %", "" if good else "end it, or wait",
        )  # fmt: skip
    memory = facts.memory
    if memory.swap_used is not None:
        used = memory.swap_used > SWAP_USED
        yield Finding(
            "swap",
            Verdict.SUSPECT if used else Verdict.GOOD,
            f"{memory.swap_used / GIB:.2f} GiB used",
            "none" if used else "",
            "free memory and empty it (swapoff -a; swapon -a)" if used else "",
        )
    if memory.huge_pages:
        never = memory.huge_pages == "never"
        yield Finding(
            "huge pages",
            Verdict.SUSPECT if never else Verdict.GOOD,
            memory.huge_pages,
            "madvise or always" if never else "",
            "write madvise to /sys/kernel/mm/transparent_hugepage/enabled" if never else "",
        )


def _model(facts: Facts) -> Iterator[Finding]:
    model = facts.model
    if model is None:
        return
    if model.file_system:
        yield Finding(
            "file system",
            Verdict.UNFIT if model.network else Verdict.GOOD,
            model.file_system,
            "a local disk" if model.network else "",
            "copy the model to a local disk: pages come over the network" if model.network else "",
        )
    available = facts.memory.available
    if model.size and available:
        cached = (model.cached or 0.0) * model.size
        fits = model.size <= available + cached
        yield Finding(
            "memory for weights",
            Verdict.GOOD if fits else Verdict.UNFIT,
            f"{model.size / GIB:.1f} GiB of weights, {available / GIB:.1f} GiB available",
            "" if fits else "memory for all of them",
            "" if fits else "weights will be read from the disk again and again",
        )
    if model.cached is not None:
        cold = model.cached < CACHED
        yield Finding(
            "page cache",
            Verdict.SUSPECT if cold else Verdict.GOOD,
            f"holds {100 * model.cached:.0f} % of the model",
            f"{100 * CACHED:.0f} % or more" if cold else "",
            "give --warm-weights, or the first rows read from the disk" if cold else "",
        )
