"""What a figure depends on beside code and model: facts about a machine, as plain values.

None is what nobody says. How facts are read is `ds4bench.doctor.probe`'s matter, and what they mean
that of `ds4bench.doctor.judge`; a set of facts can be written to JSON and judged elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ds4bench.worker.codec import built
from engine.errors import EngineError
from engine.tooling.results.typed import Rules, typed

SCHEMA = "ds4bench.doctor"
VERSION = 1
RULES = Rules(
    words={"huge_pages": ("always", "madvise", "never")},
    text={"path": 4096},
    signed=("temp_c", "start_c", "end_c", "slope_c_per_min"),
)


@dataclass(frozen=True, slots=True)
class Board:
    """Who made the machine, and its firmware (source: /sys/class/dmi/id)."""

    vendor: str | None = None
    product: str | None = None
    name: str | None = None
    bios: str | None = None
    bios_date: str | None = None
    ec: str | None = None  # embedded controller
    capsules: tuple[str, ...] = ()  # versions of /sys/firmware/efi/esrt, as 0x and eight digits
    on_battery: bool | None = None


@dataclass(frozen=True, slots=True)
class Processor:
    """The processor; clocks in MHz.

    Attributes
    ----------
    quota_cores : float or None
        Cores' worth of time that control groups allow, the smallest of all levels.
    throttled_periods : int or None
        Of that quota, since the group was made.
    loaded_mhz : float or None
        Mean of the cores' clocks under load.
    """

    name: str | None = None
    logical_cores: int | None = None
    usable_cores: int | None = None
    virtual: bool | None = None
    governor: str | None = None
    frequency_driver: str | None = None
    max_mhz: float | None = None
    loaded_mhz: float | None = None
    quota_cores: float | None = None
    throttled_periods: int | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, as NVML describes it; limits in watts, clocks in MHz.

    `loaded_sm_mhz` and `loaded_power_w` are medians while the device copied within its memory.
    """

    name: str | None = None
    driver: str | None = None
    vbios: str | None = None
    power_limit_w: float | None = None
    power_default_w: float | None = None
    max_sm_mhz: float | None = None
    loaded_sm_mhz: float | None = None
    loaded_power_w: float | None = None
    temp_c: float | None = None
    throttle: str | None = None  # reasons joined by '+'; '' is none
    other_processes: int | None = None
    memory_rates: tuple[float, ...] = ()  # bytes per second of each pass, read and written


@dataclass(frozen=True, slots=True)
class Memory:
    """The host's memory; sizes in bytes, rates in bytes per second of each pass of reading."""

    total: int | None = None
    available: int | None = None
    swap_used: int | None = None
    huge_pages: str | None = None  # always, madvise, never
    threads: int | None = None
    rates: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Load:
    """What others do: share of all cores in per cent before our own load, and the queue."""

    busy_pct: float | None = None
    load_1min: float | None = None


@dataclass(frozen=True, slots=True)
class ModelFile:
    """Where the weights lie, and how much of them the page cache holds (0 to 1)."""

    path: str
    size: int | None = None
    file_system: str | None = None
    network: bool | None = None
    cached: float | None = None


@dataclass(frozen=True, slots=True)
class Warming:
    """Temperature and memory rate over a stretch of load.

    Attributes
    ----------
    seconds : float
    start_c, end_c : float or None
        Hottest sensor, GPU's or processor's.
    slope_c_per_min : float or None
        Over the last half of the stretch, by least squares.
    kept : float or None
        Median rate of the last third over that of the first: what heat or a quota left.
    """

    seconds: float
    start_c: float | None = None
    end_c: float | None = None
    slope_c_per_min: float | None = None
    kept: float | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that was read of one machine. `probed` is False where no load was made."""

    system: str | None = None
    board: Board = field(default_factory=Board)
    processor: Processor = field(default_factory=Processor)
    device: Device | None = None
    memory: Memory = field(default_factory=Memory)
    load: Load = field(default_factory=Load)
    model: ModelFile | None = None
    warming: Warming | None = None

    def to_record(self) -> dict[str, Any]:
        """JSON-ready; what is not known is left out."""
        record: dict[str, Any] = _known(asdict(self))
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any], where: str) -> Facts:
        """The facts that `to_record` wrote.

        Raises
        ------
        EngineError
            If it holds other fields or values.
        """
        facts = typed(cls, record, RULES, f"{where}: facts of a machine", EngineError)
        try:
            built(cls, record)
        except TypeError as error:  # a field that no facts of this version have
            raise EngineError(f"{where}: expected facts of a machine, found {error}") from None
        return facts


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        cleaned = {name: _known(item) for name, item in value.items()}
        return {name: item for name, item in cleaned.items() if item not in (None, {}, [], ())}
    return list(value) if isinstance(value, tuple) else value
