"""Memory bandwidth of machines that people name: by data sheet, and as somebody measured it.

The table serves predictions only (`--predict`); this machine's own rate is always measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import OptionError


@dataclass(frozen=True, slots=True)
class KnownMachine:
    """One machine's memory.

    Parameters
    ----------
    name : str
    title : str
    nominal : float
        Bytes per second of the data sheet.
    measured : float or None
        Best sustained read rate that was found published; None where none was.
    source : str
    """

    name: str
    title: str
    nominal: float
    measured: float | None
    source: str


MACHINES = {
    machine.name: machine
    for machine in (
        KnownMachine(
            "gb10",
            "NVIDIA GB10 (DGX Spark), 128 GB LPDDR5X",
            273e9,
            236e9,
            "data sheet; membw of TrevorS/ds4 tools/perf/gamut",
        ),
        KnownMachine("h100", "NVIDIA H100 SXM, 80 GB HBM3", 3.35e12, None, "data sheet"),
        KnownMachine("h200", "NVIDIA H200 SXM, 141 GB HBM3e", 4.8e12, None, "data sheet"),
        KnownMachine("b200", "NVIDIA B200, 192 GB HBM3e", 8.0e12, None, "data sheet"),
        KnownMachine(
            "rtx-pro-6000", "NVIDIA RTX PRO 6000, 96 GB GDDR7", 1.792e12, None, "data sheet"
        ),
        KnownMachine("m1-max", "Apple M1 Max", 400e9, None, "data sheet"),
        KnownMachine("m1-ultra", "Apple M1 Ultra", 800e9, None, "data sheet"),
        KnownMachine("m2-max", "Apple M2 Max", 400e9, None, "data sheet"),
        KnownMachine("m2-ultra", "Apple M2 Ultra", 800e9, None, "data sheet"),
        KnownMachine("m3-max", "Apple M3 Max (40 GPU cores)", 400e9, None, "data sheet"),
        KnownMachine("m3-ultra", "Apple M3 Ultra", 819e9, None, "data sheet"),
        KnownMachine("m4-max", "Apple M4 Max (40 GPU cores)", 546e9, None, "data sheet"),
        KnownMachine(
            "ai-max-395", "AMD Ryzen AI Max+ 395, 128 GB LPDDR5X", 256e9, None, "data sheet"
        ),
    )
}


def machine(name: str) -> KnownMachine:
    """The machine of that name.

    Raises
    ------
    OptionError
        If there is none.
    """
    found = MACHINES.get(name.lower().replace("_", "-"))
    if found is None:
        raise OptionError(f"--predict: expected one of {', '.join(MACHINES)}, found {name!r}")
    return found
