"""What a sweep will do: its options, validated, and from them frontiers and cells in order.

A plan knows nothing of the model, the machine or earlier results; `ds4bench.sweep.checks` holds
what can be said only beside those.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ds4bench.records.derived import series_of
from engine.errors import OptionError
from engine.options import CUDA_FIELDS, MODES

MAX_FRONTIERS = 100_000
INT_MAX = 2**31 - 1
# Crashes of one cell after which it is left alone.
PARK_AFTER = 3
# Frontiers in a row without one good cell after which the sweep gives up.
GIVE_UP_AFTER = 3


@dataclass(frozen=True, slots=True)
class Prompt:
    """Where the text comes from: a file, or a generator that is the same on every machine."""

    path: Path | None = None
    text: str = ""
    chat: bool = False
    system: str = ""
    repeat: bool = False
    seed: int = 0
    classes: tuple[str, ...] = ()  # of a prompt set: a text of each kind

    @property
    def source(self) -> str:
        """What identifies the text in a record."""
        if self.classes:
            return f"panel:{self.seed}"
        if self.path is None:
            return f"generated:{self.seed}"
        return "sha256:" + hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen; temp 0 is the first maximum with EOS left out."""

    temp: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 1234

    def __post_init__(self) -> None:
        for name, high in (("temp", 100.0), ("top_p", 1.0), ("min_p", 1.0)):
            value = getattr(self, name)
            if not 0 <= value <= high:  # false for NaN too
                option = name.replace("_", "-")
                raise OptionError(f"--{option}: expected 0 to {high:g}, found {value!r}")

    @property
    def greedy(self) -> bool:
        return self.temp == 0.0


# What a sweep of another backend than the processor also depends on.
DEVICE_FIELDS = ("backend", *CUDA_FIELDS)


@dataclass(frozen=True, slots=True)
class Cell:
    """One row to be: a mode at a frontier in a run; the rest as in a `SpeedRow`."""

    run: int
    ctx_tokens: int
    prefill_tokens: int
    mode: str
    text_class: str = ""
    prefix: str = ""
    users: int = 1

    @property
    def series(self) -> str:
        return series_of(self.mode, self.text_class, self.prefix, self.users)

    @property
    def place(self) -> tuple[int, str, int]:
        """As of the row that fills it."""
        return self.run, self.series, self.ctx_tokens

    def identity(self) -> dict[str, object]:
        """What tells the cell apart; fields that say nothing are left out."""
        return {
            name: value
            for name, value in asdict(self).items()
            if not (name in ("text_class", "prefix", "users") and value in ("", 1))
        }


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """A validated sweep.

    Raises
    ------
    OptionError
        On construction, naming the option.
    """

    model: Path
    prompt: Prompt = field(default_factory=Prompt)
    sampling: Sampling = field(default_factory=Sampling)
    mtp: Path | None = None
    mtp_draft: int = 1
    mtp_adaptive: bool = False
    mtp_margin: float = 0.0
    dspark: Path | None = None
    draft_max: int | None = None
    draft_confidence: float = 0.0
    draft_adaptive: bool = False
    draft_force: bool = False
    modes: tuple[str, ...] = ("plain",)
    ctx_start: int = 2048
    ctx_max: int = 32768
    ctx_alloc: int | None = None
    step_incr: int = 2048
    step_mul: float = 1.0
    gen_tokens: int = 128
    repeats: int = 1
    threads: int | None = None
    activations: str = "int8"
    kv: str = "official"
    repack: str = "auto"
    warm_weights: bool = False
    check_values: str = "once"
    backend: str = "cpu"
    launch: str = "graph"
    residency: str = "auto"
    residency_gib: float | None = None
    device: int = 0

    def __post_init__(self) -> None:
        for option in ("ctx_start", "ctx_max", "gen_tokens", "repeats"):
            value = getattr(self, option)
            if not 1 <= value <= INT_MAX:
                raise OptionError(
                    f"--{option.replace('_', '-')}: expected 1 to {INT_MAX}, found {value}"
                )
        if self.ctx_start > self.ctx_max:
            raise OptionError(
                f"--ctx-start: expected at most --ctx-max {self.ctx_max}, found {self.ctx_start}"
            )
        if not (math.isfinite(self.step_mul) and self.step_mul >= 1):
            raise OptionError(f"--step-mul: expected a finite number >= 1, found {self.step_mul!r}")
        if self.step_mul == 1 and not 1 <= self.step_incr <= INT_MAX:
            raise OptionError(
                f"--step-incr: expected 1 to {INT_MAX} where --step-mul is 1, "
                f"found {self.step_incr}"
            )
        need = self.ctx_max + self.gen_tokens
        if need >= INT_MAX:
            raise OptionError(
                f"--ctx-max and --gen-tokens: expected a sum below {INT_MAX}, found {need}"
            )
        if self.ctx_alloc is not None and self.ctx_alloc <= need:
            raise OptionError(
                f"--ctx-alloc: expected more than --ctx-max + --gen-tokens = {need}, "
                f"found {self.ctx_alloc}"
            )
        if not self.modes:
            raise OptionError("--mode: expected at least one mode, found none")
        for mode in self.modes:
            if mode not in MODES:
                raise OptionError(f"--mode: expected one of {', '.join(MODES)}, found {mode!r}")
        if len(set(self.modes)) != len(self.modes):
            raise OptionError(f"--mode: expected each mode once, found {', '.join(self.modes)}")
        n = _count(self.ctx_start, self.ctx_max, self.step_incr, self.step_mul)
        if n > MAX_FRONTIERS:
            raise OptionError(
                f"--step-incr: expected at most {MAX_FRONTIERS} frontiers, found more"
            )

    @property
    def context(self) -> int:
        """Tokens the session is allocated for."""
        return self.ctx_alloc or self.ctx_max + self.gen_tokens + 1

    @property
    def frontiers(self) -> tuple[int, ...]:
        return tuple(frontiers(self.ctx_start, self.ctx_max, self.step_incr, self.step_mul))

    @property
    def upstream_only(self) -> bool:
        """Whether the CSV is exactly upstream's: one plain run."""
        return self.modes == ("plain",) and self.repeats == 1 and not self.prompt.classes

    @property
    def classes(self) -> tuple[str, ...]:
        """Kinds of text, each with a timeline of its own; one without a name is no prompt set."""
        return self.prompt.classes or ("",)

    @property
    def n_rows(self) -> int:
        return len(self.frontiers) * self.repeats * len(self.modes) * len(self.classes)

    def order(self, run: int, index: int) -> tuple[str, ...]:
        """Modes at frontier number `index` of a run, rotated so that heat has no favourite."""
        shift = (run - 1 + index) % len(self.modes)
        return self.modes[shift:] + self.modes[:shift]

    def cells(self) -> Iterator[Cell]:
        """Every row to be, in the order of measurement."""
        for run in range(1, self.repeats + 1):
            for text_class in self.classes:
                before = 0
                for index, frontier in enumerate(self.frontiers):
                    for mode in self.order(run, index):
                        yield Cell(run, frontier, frontier - before, mode, text_class)
                    before = frontier

    def to_record(self) -> dict[str, object]:
        """JSON-ready form for the journal's header; the prompt's text is left out."""
        record: dict[str, object] = asdict(self)
        prompt = asdict(self.prompt)
        del prompt["text"]
        if not self.prompt.classes:
            del prompt["classes"]
        prompt["path"] = None if self.prompt.path is None else str(self.prompt.path)
        prompt["source"] = self.prompt.source
        record["prompt"] = prompt
        record["model"] = str(self.model)
        record["mtp"] = None if self.mtp is None else str(self.mtp)
        record["dspark"] = None if self.dspark is None else str(self.dspark)
        record["modes"] = list(self.modes)
        record["context"] = self.context
        return record


def frontiers(start: int, stop: int, incr: int, mul: float) -> Iterator[int]:
    """Context lengths of a sweep; the last is always `stop` (source: ds4_bench.c).

    The next one is max(cur + 1, ceil(cur * mul)), or cur + incr where mul is 1.
    """
    cur = start
    while cur < stop:
        yield cur
        if mul > 1:
            grown = cur * mul
            cur = stop if grown >= stop else max(cur + 1, math.ceil(grown))
        else:
            cur += incr
    yield stop


def _count(start: int, stop: int, incr: int, mul: float) -> int:
    """Number of frontiers, counted no further than one beyond the limit."""
    n = 0
    for _ in frontiers(start, stop, incr, mul):
        n += 1
        if n > MAX_FRONTIERS:
            break
    return n
