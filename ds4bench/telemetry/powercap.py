"""Energy that the processor used, by the counters of Linux's powercap (RAPL).

Source: Documentation/power/powercap/powercap.rst and the files themselves. Counters are microjoules
that wrap around at a range of their own; since 2020 only root may read them on most systems
(CVE-2020-8694), so there may be none. What other programs used in that time is in them, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path("/sys/class/powercap")
# Packages, and memory that is counted beside them. 'psys' holds both again, 'core' is in a package.
_COUNTED = re.compile(r"^(package(-\d+)?|dram)$")


@dataclass
class _Zone:
    """One counter: its file, where it wraps, and what was read last."""

    energy: Path
    wraps_at: int
    last: int | None = None
    total: int = field(default=0)  # microjoules since the first reading

    def read(self) -> bool:
        """Add what came since the last reading; False where the counter cannot be read."""
        value = _number(self.energy)
        if value is None:
            return False
        if self.last is not None:
            # Read at least once a minute, which is far more often than it wraps.
            step = value - self.last
            self.total += step if step >= 0 else step + self.wraps_at
        self.last = value
        return True


class PowerCap:
    """The counters of all packages.

    Parameters
    ----------
    root : Path
        The folder of powercap zones.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._zones: list[_Zone] = []
        try:
            folders = sorted(path for path in root.iterdir() if ":" in path.name)
        except OSError:
            return
        for folder in folders:
            name, wraps_at = _text(folder / "name"), _number(folder / "max_energy_range_uj")
            if not name or not _COUNTED.match(name) or not wraps_at:
                continue
            # A machine may show one package under two interfaces (intel-rapl, intel-rapl-mmio).
            if folder.name.startswith("intel-rapl-mmio"):
                continue
            zone = _Zone(folder / "energy_uj", wraps_at + 1)
            if zone.read():
                self._zones.append(zone)

    @property
    def present(self) -> bool:
        return bool(self._zones)

    def energy_j(self) -> float | None:
        """Joules since this object was made; None where any counter cannot be read."""
        if not self._zones or not all(zone.read() for zone in self._zones):
            return None
        return sum(zone.total for zone in self._zones) * 1e-6


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text and text.isdecimal() else None
