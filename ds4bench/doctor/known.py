"""Machines that people name, and what can be expected of them, with the sources.

Only what somebody published stands here; where nobody did, a fact is judged by itself. Bandwidths
are those of `ds4bench.telemetry.machines`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ds4bench.doctor.facts import Facts
from ds4bench.telemetry.machines import MACHINES, KnownMachine


@dataclass(frozen=True, slots=True)
class Baseline:
    """Firmware below which a machine is known to be slow.

    Attributes
    ----------
    part : str
        'bios', 'ec', 'vbios' or 'capsule'.
    pattern : str
        Regular expression of the vendor's versions; its groups compare as numbers of `base`.
    least : tuple of int
    base : int
        10 or 16.
    shown : str
        The least version as its vendor writes it.
    name : str
        Of the line in the table, where it is not the part's.
    """

    part: str
    pattern: str
    least: tuple[int, ...]
    base: int
    shown: str
    name: str = ""

    def holds(self, version: str) -> bool | None:
        """Whether a version is at least the baseline; None where it is of another vendor."""
        match = re.match(self.pattern, version, re.IGNORECASE)
        if match is None:
            return None
        return tuple(int(group, self.base) for group in match.groups()) >= self.least


@dataclass(frozen=True, slots=True)
class Profile:
    """What a kind of machine should show.

    Attributes
    ----------
    memory : KnownMachine
        Name, title and bandwidth.
    pattern : str
        Of GPU, processor or product name.
    power_w : float or None
        Power limit as shipped.
    sm_mhz : (float, float) or None
        SM clock under load: good from the first on, unfit below the second.
    firmware : tuple of Baseline
    sources : dict
        By fact: where the expectation comes from.
    note : str
        What is known of its firmware, for advice.
    """

    memory: KnownMachine
    pattern: str
    power_w: float | None = None
    sm_mhz: tuple[float, float] | None = None
    firmware: tuple[Baseline, ...] = ()
    sources: dict[str, str] = field(default_factory=dict)
    note: str = ""


_GB10_SOURCE = "github.com/Entrpi/ds4-on-spark/issues/16"
PROFILES = (
    Profile(
        MACHINES["gb10"],
        r"\bGB10\b|DGX Spark|Ascent GX10",
        sm_mhz=(1900.0, 1400.0),
        firmware=(
            # ASUS's strings; NVIDIA's own boards count otherwise (5.36_0ACUM018).
            Baseline("bios", r"GX10DGX\.(\d+)\.", (105,), 10, "GX10DGX.0105.2026.0505"),
            Baseline(
                "vbios",
                r"([0-9a-f]+)\.([0-9a-f]+)\.([0-9a-f]+)",
                (0x9A, 0x0B, 0x25),
                16,
                "9A.0B.25",
            ),
            Baseline("ec", r"0x([0-9a-f]+)$", (0x02000006,), 16, "0x02000006"),
            # As the firmware's own table of updates counts its parts.
            Baseline("capsule", r"0x02([0-9a-f]{6})$", (6,), 16, "0x02000006", "ec update"),
            Baseline("capsule", r"0x03([0-9a-f]{6})$", (7,), 16, "0x03000007", "SoC update"),
        ),
        sources={
            "firmware": _GB10_SOURCE,
            "clock": "github.com/tonyd2wild/DeepSeek-V4.1-Flash-vLLM-DGX-Spark/issues/1 (2164 to "
            "2190 MHz); github.com/Blackwellboy/model-serving-minefield/pull/55 (stuck low)",
        },
        note="Before release OTA2604 one owner measured 385 t/s of prefill and 10.5 of decode "
        "where 805 and 18.2 followed the update; the engine's maker attributes part of the "
        "prefill to code.",
    ),
    Profile(
        MACHINES["h100"],
        r"\bH100\b",
        power_w=700.0,
        sm_mhz=(1400.0, 1000.0),
        sources={"power limit": "data sheet (SXM5)", "clock": "data sheet: boost 1980 MHz"},
    ),
    Profile(
        MACHINES["h200"],
        r"\bH200\b",
        power_w=700.0,
        sm_mhz=(1400.0, 1000.0),
        sources={"power limit": "data sheet (SXM5)", "clock": "data sheet: boost 1980 MHz"},
    ),
    Profile(
        MACHINES["b200"],
        r"\bB200\b",
        power_w=1000.0,
        sources={"power limit": "data sheet"},
    ),
    Profile(
        MACHINES["rtx-pro-6000"],
        r"RTX PRO 6000",
        power_w=600.0,
        sm_mhz=(1800.0, 1200.0),
        sources={"power limit": "data sheet (Max-Q: 300 W)", "clock": "data sheet"},
    ),
    Profile(MACHINES["ai-max-395"], r"AI MAX\+ 395"),
    *(
        Profile(machine, rf"Apple {name.replace('-', ' ')}\b")
        for name, machine in MACHINES.items()
        if machine.title.startswith("Apple ")
    ),
)


def profile_of(facts: Facts, name: str | None = None) -> Profile | None:
    """The kind of a machine, by its name here or by what its parts are called."""
    if name is not None:
        return next(p for p in PROFILES if p.memory.name == name)
    device = facts.device
    names = [device and device.name, facts.processor.name, facts.board.product, facts.board.name]
    text = "\n".join(n for n in names if n)
    return next((p for p in PROFILES if re.search(p.pattern, text, re.IGNORECASE)), None)
