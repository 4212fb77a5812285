"""Keeps how much a machine scatters: the result of measuring the same code as A and as B.

One file per machine lies in the user's data folder. Nothing is measured here.

A tolerance below what a design can detect would turn noise into verdicts, so it is refused.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs

from ds4bench.compare.judge import Comparison, asked_tolerance
from ds4bench.compare.samples import METRICS, Arm
from ds4bench.compare.stats import MAX_PAIRS, mde_of
from ds4bench.records.words import SERIES
from engine.errors import EngineError, OptionError, StoreError
from engine.tooling.results.publish import publish_bytes
from engine.tooling.results.typed import NAME, Rules, read_object, typed

VERSION = 1
MOST_BYTES = 1 << 20  # a floor is a hundred bytes, a machine has a few of them
RULES = Rules(
    words={"metric": METRICS},
    patterns={"machine": NAME, "mode": SERIES},
    text={"command": 1 << 16},
    signed=("bias",),
)


@dataclass(frozen=True, slots=True)
class Floor:
    """Scatter of one curve between sweeps of the same code.

    Attributes
    ----------
    metric, mode : str
    sigma : float
        Standard deviation of one pair's log ratio.
    pairs : int
        That it was estimated from.
    bias : float
        Mean log ratio of A against A: of an honest set-up it is zero within `sigma`.
    """

    metric: str
    mode: str
    sigma: float
    pairs: int
    bias: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """The floors of one machine and when they were measured (seconds since 1970)."""

    machine: str
    at: float
    floors: tuple[Floor, ...]
    command: str = ""

    def floor(self, metric: str, mode: str) -> Floor | None:
        return next((f for f in self.floors if (f.metric, f.mode) == (metric, mode)), None)


def machine_id(environment: Mapping[str, Any]) -> str:
    """Short hash of processor, cores, GPU and memory; '' where the record does not say."""
    cpu, gpu = environment.get("cpu") or {}, environment.get("gpu") or {}
    parts = [
        cpu.get("name"),
        cpu.get("usable_cores"),
        gpu.get("name"),
        environment.get("memory_bytes"),
    ]
    if not parts[0]:
        return ""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def folder() -> Path:
    """Where calibrations are kept."""
    return Path(platformdirs.user_data_dir("ds4bench", appauthor=False)) / "calibration"


def from_comparison(result: Comparison, machine: str, command: str = "") -> Calibration:
    """Floors out of an A/A comparison's curves.

    Raises
    ------
    EngineError
        If it has fewer than five pairs, or the machine is unknown.
    """
    if not machine:
        raise EngineError("calibrate: expected an environment record with a processor, found none")
    thin = [c for c in result.curves if c.judgement.estimate.n < 5]
    if thin or not result.curves:
        raise EngineError(f"calibrate: expected at least 5 pairs, found {result.n_base}")
    floors = tuple(
        Floor(c.metric, c.mode, e.sigma, e.n, e.mean)
        for c in result.curves
        for e in [c.judgement.estimate]
    )
    return Calibration(machine, time.time(), floors, command)


def store(calibration: Calibration, where: Path | None = None) -> Path:
    """Write a calibration; a later one of the same machine replaces it.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    where = where or folder()
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{where}: expected to make the folder, found {error.strerror}") from error
    path = where / f"{calibration.machine}.json"
    record = {"schema": "ds4bench.calibration", "version": VERSION, **asdict(calibration)}
    publish_bytes(path, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
    return path


def load(machine: str, where: Path | None = None) -> Calibration | None:
    """The calibration of a machine, or None where there is none.

    Raises
    ------
    EngineError
        If the file is damaged.
    """
    path = (where or folder()) / f"{machine}.json"
    if not machine or not path.exists():
        return None
    record = read_object(path, MOST_BYTES, EngineError)
    if record.get("schema") != "ds4bench.calibration" or record.get("version") != VERSION:
        raise EngineError(
            f"{path}: expected a calibration of version {VERSION}, found "
            f"{str(record.get('schema'))[:40]!r} {str(record.get('version'))[:20]!r}"
        )
    return typed(Calibration, record, RULES, str(path), EngineError)


def sigmas(arm: Arm, where: Path | None = None) -> dict[tuple[str, str], float]:
    """Calibrated noise of one pair on an arm's machine by metric and mode; empty if never taken.

    Raises
    ------
    EngineError
        If the file is damaged.
    """
    known = load(machine_id(arm.environment), where)
    return {} if known is None else {(f.metric, f.mode): f.sigma for f in known.floors}


def smaller(base: Arm, head: Arm) -> int:
    """Samples of the smaller arm of an unpaired comparison."""
    counts = []
    for arm in (base, head):
        several = len(arm.runs) > 1
        counts.append(len(arm.runs) if several else len({row.run for row in arm.rows}))
    return min(counts)


def refuse_below_floor(
    tolerances: Mapping[str, float],
    arm: Arm,
    pairs: int = MAX_PAIRS,
    where: Path | None = None,
) -> None:
    """Refuse tolerances that this machine's noise does not allow with that many pairs.

    Only tolerances that were asked for are checked; defaults answer "inconclusive" by themselves.

    Raises
    ------
    OptionError
        Naming the curve, what was asked, and what can be told apart.
    """
    if not tolerances or pairs < 2:
        return
    calibration = load(machine_id(arm.environment), where)
    if calibration is None:
        return
    modes = {row.mode for row in arm.rows}
    for floor in calibration.floors:
        asked = asked_tolerance(floor.metric, floor.mode, tolerances)
        limit = mde_of(floor.sigma, pairs)
        if asked is not None and floor.mode in modes and asked < limit:
            raise OptionError(
                f"--tolerance: expected at least {100 * limit:.2f} % for {floor.metric} "
                f"{floor.mode}, the smallest change that {pairs} samples show on this machine "
                f"(sigma {100 * floor.sigma:.2f} %), found {100 * asked:g} %"
            )
