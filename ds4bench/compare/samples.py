"""Loads the arms of a comparison, checks that they can be compared, and takes their samples.

An arm is one side (base or head); a sample is the logarithms of the rates of one process or repeat.
Nothing here judges.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds4bench.compare.conditions import differing
from ds4bench.compare.models import names_of, same_headers
from ds4bench.records.files import label_of, read_rows
from ds4bench.records.rows import SpeedRow, SweepResult, mode_of, mode_rank
from engine.errors import EngineError
from engine.options import CUDA_FIELDS
from engine.tooling.report.labels import clean_label

# What a set-up may differ in because it is what is under test.
_DSPARK = ("draft_max", "draft_confidence", "draft_adaptive")
DRAFTING = (  # no matter to plain rows
    *("mtp_draft", "mtp_adaptive", "mtp_margin"),
    *_DSPARK,
)
TREATMENT = ("threads", "activations", "kv", "repack", "switches", *DRAFTING)
# Of a sweep on a device; absent from the record of one on the processor.
ON_DEVICE = ("backend", *(f for f in CUDA_FIELDS if f != "device"), "residency_route")
METRICS = ("prefill", "decode", "steps", "first_token", "itl_p99")
LATENCIES = ("first_token", "itl_p99")  # as their inverses: less is slower, as with rates
# Fields that two runs must share, each with where it stands in the environment record.
FIELDS = (
    "cpu",
    "cores",
    "gpu",
    "driver",
    "model",
    "prompt",
    "sampling",
    "server",
    *TREATMENT,
    *ON_DEVICE,
)
SHAPE_FIELDS = ("modes", "sweep", "prefill_tokens", "gen_tokens")


@dataclass(frozen=True, slots=True)
class Key:
    """What is measured in one cell of the join; `mode` is a series (`SpeedRow.series`)."""

    metric: str
    mode: str
    ctx_tokens: int
    prefill_tokens: int

    @property
    def order(self) -> tuple[int, int, str, int]:
        return (METRICS.index(self.metric), mode_rank(self.mode), self.mode, self.ctx_tokens)


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of a comparison.

    Attributes
    ----------
    label : str
    runs : tuple of SweepResult
        One per process.
    """

    label: str
    runs: tuple[SweepResult, ...]

    @property
    def rows(self) -> list[SpeedRow]:
        return [row for run in self.runs for row in run.rows]

    @property
    def environment(self) -> dict[str, Any]:
        return self.runs[0].environment

    @property
    def unit(self) -> str:
        """What one sample is: a process where there are several, else a repeat inside one."""
        return "process" if len(self.runs) > 1 else "repeat"


def load_arm(path: Path, label: str = "") -> Arm:
    """An arm from a results file, the folder of a run, or a folder of such folders.

    Raises
    ------
    EngineError
        If there is nothing to read or a file is damaged.
    """
    path = Path(path)
    if (path / "pairs.jsonl").exists():
        raise EngineError(
            f"{path}: expected the sweeps of one arm, found an ab session, which holds both "
            "(and a warm-up pair); name single sweeps in it"
        )
    if path.is_dir() and not (path / "rows.jsonl").exists():
        folders = sorted(p.parent for p in path.glob("*/rows.jsonl"))
        if not folders:
            raise EngineError(
                f"{path}: expected rows.jsonl or folders that hold one, found neither"
            )
        runs = tuple(read_rows(folder) for folder in folders)
        for run in runs[1:]:
            differing = unlike(Arm("", (runs[0],)), Arm("", (run,)))
            if differing:
                raise EngineError(
                    f"{run.source}: expected a repeat of {runs[0].source}, "
                    f"found another {differing[0].name}"
                )
    else:
        runs = (read_rows(path),)
    if not any(run.good for run in runs):
        raise EngineError(f"{path}: expected at least one finished row, found none")
    return Arm(clean_label(label) or label_of(path), runs)


@dataclass(frozen=True, slots=True)
class Difference:
    """A field in which two arms differ; None is unknown."""

    name: str
    base: Any
    head: Any

    def __str__(self) -> str:
        return f"{self.name}: expected {_shown(self.base)}, found {_shown(self.head)}"


def unlike(base: Arm, head: Arm) -> list[Difference]:
    """Fields that make numbers incomparable. Unknown equals unknown only (two bare CSV files).

    Only what bears on modes that both arms measured counts: a plain sweep and the plain rows of a
    sweep of all modes are one experiment.
    """
    common = {row.series for row in base.rows} & {row.series for row in head.rows}
    drafts = {mode_of(series) for series in common} != {"plain"}
    ours, theirs = (facts(arm.environment, drafts=drafts) for arm in (base, head))
    if _given_threads(base.environment) == _given_threads(head.environment):
        # Neither chose, or both chose the same; another number of cores has a name of its own.
        theirs["threads"] = ours.get("threads")
    found = [
        Difference(name, ours.get(name), theirs.get(name))
        for name in FIELDS
        if ours.get(name) != theirs.get(name)
    ]
    if _same_model(base, head, ours.get("model"), theirs.get("model")):
        found = [difference for difference in found if difference.name != "model"]
    found += [Difference(*one) for one in differing(base.environment, head.environment)]
    return found + _unlike_shape(base, head)


def facts(environment: dict[str, Any], *, drafts: bool = True) -> dict[str, Any]:
    """The fields of an environment record that must agree.

    Parameters
    ----------
    environment : dict
    drafts : bool
        Whether rows of speculative modes are compared.
    """
    plan, prints = _part(environment, "plan"), _part(environment, "fingerprint")
    cpu, gpu = _part(environment, "cpu"), _part(environment, "gpu")
    engine = _part(environment, "engine")
    found = {
        "cpu": cpu.get("name"),
        "cores": cpu.get("usable_cores"),
        "gpu": gpu.get("name") or engine.get("device_name"),
        "driver": gpu.get("driver"),
        "model": _model(environment, drafts),
        "prompt": [prints[k] for k in ("prompt", "chat", "system", "repeat_prompt") if k in prints],
        "sampling": prints.get("sampling"),
        "server": prints.get("server"),
    }
    for name in TREATMENT:
        if drafts or name not in DRAFTING:
            # Plans of earlier releases lack DSpark's; fingerprints have them where it drafted.
            found[name] = prints.get(name, None if name in _DSPARK else plan.get(name))
    # Without a number the engine takes every core that it may use, and says how many it took.
    found["threads"] = (
        _given_threads(environment) or engine.get("threads") or cpu.get("usable_cores")
    )
    found["repack"] = _repacked(prints, engine)
    for name in ON_DEVICE:
        # How mapped weights were reached is found when the model is opened.
        found[name] = prints.get(name, engine.get(name) if name == "residency_route" else None)
    if prints:
        found["backend"] = prints.get("backend", "cpu")  # older records name devices only
    return {name: value for name, value in found.items() if value not in (None, [], {})}


def _repacked(prints: dict[str, Any], engine: dict[str, Any]) -> Any:
    """Whether kernels read repacked copies: "auto" is decided by format and memory."""
    asked = prints.get("repack")
    if asked not in (None, "auto"):
        return asked == "on"
    size = engine.get("repacked_bytes")
    effective = _part(prints, "effective").get("repacked")
    return bool(size) if effective is None and size is not None else effective


def _given_threads(environment: dict[str, Any]) -> Any:
    prints, plan = _part(environment, "fingerprint"), _part(environment, "plan")
    return prints.get("threads", plan.get("threads"))


def _model(environment: dict[str, Any], drafts: bool) -> Any:
    files = environment.get("model")
    if not isinstance(files, list):
        return _part(environment, "fingerprint").get("model")
    # The trunk alone where no drafts are compared; a second file holds the MTP block.
    return names_of(files if drafts else files[:1])


def _same_model(base: Arm, head: Arm, ours: Any, theirs: Any) -> bool:
    """Whether model files that have other names are the same by what both records say."""
    if not (isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs)):
        return False
    return same_headers(base.environment, head.environment, len(ours))


def _part(environment: dict[str, Any], name: str) -> dict[str, Any]:
    value = environment.get(name)
    return value if isinstance(value, dict) else {}


def _unlike_shape(base: Arm, head: Arm) -> list[Difference]:
    ours, theirs = _shape(base.rows), _shape(head.rows)
    found = []
    if any(mode not in theirs for mode in ours):
        modes = [sorted(shape, key=mode_rank) for shape in (ours, theirs)]
        found.append(Difference("modes", *modes))
    common = [mode for mode in ours if mode in theirs]
    grids = [(sorted(ours[m]), sorted(theirs[m])) for m in common if set(ours[m]) != set(theirs[m])]
    if grids:
        found.append(Difference("sweep", *grids[0]))
    both = [(m, ctx) for m in common for ctx in sorted(set(ours[m]) & set(theirs[m]))]
    for place, name in enumerate(("prefill_tokens", "gen_tokens")):
        for mode, ctx in both:
            a, b = ours[mode][ctx][place], theirs[mode][ctx][place]
            # A cell without a good row has no count of generated tokens.
            if a != b and a and b:
                where = f"{_numbers(a)} ({mode} at {ctx} tokens)"
                found.append(Difference(name, where, _numbers(b)))
                break
    return found


def _numbers(values: set[int]) -> str:
    return " and ".join(str(v) for v in sorted(values))


def _shape(rows: Iterable[SpeedRow]) -> dict[str, dict[int, tuple[set[int], set[int]]]]:
    """Prefill and generated token counts that occurred, by mode and frontier."""
    shape: dict[str, dict[int, tuple[set[int], set[int]]]] = defaultdict(dict)
    for row in rows:
        prefills, gens = shape[row.series].setdefault(row.ctx_tokens, (set(), set()))
        prefills.add(row.prefill_tokens)
        if row.ok:
            gens.add(row.gen_tokens)
    return shape


def _shown(value: Any) -> str:
    text = "unknown" if value is None else repr(value)
    return text if len(text) <= 160 else text[:157] + "..."


Sample = dict[Key, float]


def row_logs(row: SpeedRow) -> Sample:
    """Natural logarithms of the rates that one good row measured, by key."""
    rates = {
        "prefill": None if row.prefill_shared else row.prefill_tps,
        "decode": row.gen_tps,
        # In plain mode a step is a token: no second fact.
        "steps": row.steps_per_s if row.steps != row.gen_tokens else None,
        "first_token": _inverse(row.first_token_s),
        "itl_p99": _inverse(row.itl_s(99)),
    }
    return {
        Key(metric, row.series, row.ctx_tokens, row.prefill_tokens): math.log(rate)
        for metric, rate in rates.items()
        if rate
    }


def _inverse(seconds: float | None) -> float | None:
    return 1 / seconds if seconds and math.isfinite(1 / seconds) else None


def sample_of(rows: Iterable[SpeedRow]) -> Sample:
    """One sample out of the good rows of a process (or repeat): means of logs by key."""
    cells: dict[Key, list[float]] = defaultdict(list)
    for row in rows:
        if row.ok:
            for key, value in row_logs(row).items():
                cells[key].append(value)
    return {key: math.fsum(values) / len(values) for key, values in cells.items()}


def samples(arm: Arm) -> list[Sample]:
    """The samples of an arm, one per unit of replication."""
    if arm.unit == "process":
        return [sample_of(run.rows) for run in arm.runs]
    by_run: dict[int, list[SpeedRow]] = defaultdict(list)
    for row in arm.runs[0].rows:
        by_run[row.run].append(row)
    return [sample_of(rows) for _, rows in sorted(by_run.items())]
