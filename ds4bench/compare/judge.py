"""Judges head against base: rows of two arms become a table of effects with verdicts.

The statistics are those of `ds4bench.compare.stats`; nothing here reads files or prints.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ds4bench.compare import grid, stats
from ds4bench.compare.conditions import unfit_notes
from ds4bench.compare.models import header_only_notes
from ds4bench.compare.outputs import (
    TokensLine,
    broken_cells,
    compare_outputs,
    summed_up,
    token_lines,
    token_notes,
)
from ds4bench.compare.samples import (
    LATENCIES,
    Arm,
    Difference,
    Key,
    Sample,
    sample_of,
    samples,
    unlike,
)
from ds4bench.compare.stats import CELL_SHARE, CURVE_SHARE, Estimate, Judgement, Verdict
from ds4bench.records.derived import mode_of
from engine.tooling import exits
from engine.tooling.report.intervals import Interval

_LEAST_ERROR = 1e-9  # of a look that may spend nothing: practically unbounded


@dataclass(frozen=True, slots=True)
class Line:
    """One judged effect: a whole curve (ctx_tokens None) or one frontier.

    `base_rate` and `head_rate` are geometric means in tokens (steps) per second.
    """

    metric: str
    mode: str
    ctx_tokens: int | None
    prefill_tokens: int | None
    frontiers: int
    base_rate: float
    head_rate: float
    judgement: Judgement
    hodges_lehmann: Interval | None = None
    bca: Interval | None = None
    q_value: float | None = None  # Benjamini-Hochberg, over the frontiers

    @property
    def name(self) -> str:
        where = "curve" if self.ctx_tokens is None else str(self.ctx_tokens)
        return f"{self.metric} {self.mode} {where}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that a comparison found.

    Attributes
    ----------
    curves, cells : lists of Line
        Two families that share one error of 2.5 per cent one-sided, each judged with Holm: so
        often at most a report cries wolf, even with every line on its tolerance.
    unlike : list of Difference
        Fields in which the arms differ and that were not allowed to; no verdict then.
    allowed : list of Difference
        Those that were.
    broken : list of str
        Cells that head can no longer do.
    outputs : list of str
        Where head emitted other tokens than base, unless that was allowed.
    looks : int
        Times that the samples were judged while more of them could come; intervals hold over all.
    """

    base: str
    head: str
    paired: bool
    unit: str
    n_base: int
    n_head: int
    curves: list[Line] = field(default_factory=list)
    cells: list[Line] = field(default_factory=list)
    tokens: list[TokensLine] = field(default_factory=list)
    unlike: list[Difference] = field(default_factory=list)
    allowed: list[Difference] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    looks: int = 1

    @property
    def verdict(self) -> Verdict | None:
        """None where the arms must not be compared."""
        if self.unlike:
            return None
        if self.broken:
            return Verdict.REGRESSED
        if self.outputs:
            return Verdict.OUTPUTS
        return stats.overall([c.judgement for c in self.curves], [c.judgement for c in self.cells])

    def exit_code(self, strict: bool = False, gate: bool = False) -> int:
        """Status of `engine.tooling.exits` for this outcome.

        Parameters
        ----------
        strict : bool
            Only "fine" passes.
        gate : bool
            Too few samples for any verdict do not pass: such a gate could never fail.
        """
        if self.verdict is None:
            return exits.INCOMPARABLE
        if self.verdict in (Verdict.REGRESSED, Verdict.FAR_SLOWER):
            return exits.REGRESSION
        if self.verdict is Verdict.OUTPUTS:
            return exits.OUTPUTS_DIFFER
        if (strict and self.verdict is not Verdict.FINE) or (
            gate and self.verdict is Verdict.DESCRIBED
        ):
            return exits.INCONCLUSIVE
        return exits.OK


def asked_tolerance(metric: str, mode: str, given: Mapping[str, float]) -> float | None:
    """The allowed loss that was given for a curve, as a fraction; None where none was."""
    return given.get(_tolerance_name(metric, mode), given.get(metric))


def tolerance_of(metric: str, mode: str, given: Mapping[str, float], *, paired: bool) -> float:
    """Allowed loss as a fraction: what was given, else the default, doubled without pairing."""
    asked = asked_tolerance(metric, mode, given)
    if asked is not None:
        return asked
    default = stats.TOLERANCES[_tolerance_name(metric, mode)]
    return default * (1.0 if paired else stats.UNPAIRED_FACTOR)


def _tolerance_name(metric: str, mode: str) -> str:
    return "decode_mtp" if metric == "decode" and mode_of(mode) != "plain" else metric


def compare(
    base: Arm,
    head: Arm,
    tolerances: Mapping[str, float] | None = None,
    allow: Sequence[str] = (),
    sigmas: Mapping[tuple[str, str], float] | None = None,
) -> Comparison:
    """Compare two runs that were not interleaved: Welch on logs, tolerances doubled.

    `sigmas` is this machine's calibrated noise by metric and mode, where it is known.
    """
    rules = _Rules(tolerances or {}, sigmas or {}, paired=False)
    result = _compared(base, head, samples(base), samples(head), rules)
    _refuse(result, base, head, allow)
    result.notes.extend(_unpaired_notes(base, head))
    return result


def compare_pairs(
    base: Sequence[Arm],
    head: Sequence[Arm],
    tolerances: Mapping[str, float] | None = None,
    allow: Sequence[str] = (),
    share: float = 1.0,
) -> Comparison:
    """Compare interleaved pairs: arms of the same index were measured next to each other.

    Each arm is one sweep in a fresh process, whatever its repeats: one sample. `share` is the part
    of the error that this look may spend.
    """
    joined = [
        Arm(arms[0].label, tuple(run for arm in arms for run in arm.runs)) for arms in (base, head)
    ]
    ours, theirs = ([sample_of(arm.rows) for arm in arms] for arms in (base, head))
    rules = _Rules(tolerances or {}, {}, paired=True, share=share)
    result = _compared(joined[0], joined[1], ours, theirs, rules)
    _refuse(result, joined[0], joined[1], allow)
    return result


def _refuse(result: Comparison, base: Arm, head: Arm, allow: Sequence[str]) -> None:
    """Say in what the arms differ, and which of it forbids a verdict."""
    for difference in unlike(base, head):
        (result.allowed if difference.name in allow else result.unlike).append(difference)
    for arm in (base, head):
        result.notes.extend(unfit_notes(arm.label, [run.environment for run in arm.runs]))
    outputs = compare_outputs(base, head)
    result.notes.extend(outputs.notes)
    if outputs.differing and "outputs" in allow:
        found = Difference("outputs", "base's tokens", summed_up(outputs))
        result.allowed.append(found)
    elif outputs.differing:
        result.outputs.append(summed_up(outputs))
    if not result.curves and not result.unlike:
        result.unlike.append(Difference("rows", "some of equal mode, context and prefill", "none"))


@dataclass(frozen=True, slots=True)
class _Rules:
    """What was asked for and what is known before anything is judged."""

    given: Mapping[str, float]
    sigmas: Mapping[tuple[str, str], float]
    paired: bool
    share: float = 1.0

    def judges(self, key: Key) -> bool:
        """Latencies are judged where a tolerance asks for it; more curves need more pairs."""
        return key.metric not in LATENCIES or key.metric in self.given

    def judged(self, effects: Sequence[_Effect], share: float) -> list[Judgement]:
        kinds = [(e.keys[0].metric, e.keys[0].mode) for e in effects]
        return stats.judge(
            [e.estimate for e in effects],
            [tolerance_of(*kind, self.given, paired=self.paired) for kind in kinds],
            max(stats.ERROR * self.share, _LEAST_ERROR),
            share,
            [self.sigmas.get(kind, stats.ASSUMED_SIGMA) for kind in kinds],
        )


def _compared(
    base: Arm, head: Arm, ours: Sequence[Sample], theirs: Sequence[Sample], rules: _Rules
) -> Comparison:
    ours, theirs = (
        [{key: rate for key, rate in sample.items() if rules.judges(key)} for sample in arm]
        for arm in (ours, theirs)
    )
    result = Comparison(
        base.label,
        head.label,
        rules.paired,
        "pair" if rules.paired else base.unit,
        len(ours),
        len(theirs),
        broken=broken_cells(base, head),
    )
    missing = grid.gaps_note(ours, theirs, (base.label, head.label))
    if missing:
        result.notes.append(missing)
    groups: dict[tuple[str, str], list[Key]] = defaultdict(list)
    for key in grid.keys_of(ours, theirs):
        groups[key.metric, key.mode].append(key)
    curves: list[_Effect] = []
    cells: list[_Effect] = []
    for keys in groups.values():
        tables = grid.table(ours, keys), grid.table(theirs, keys)
        cells += _cells(keys, *tables, rules.paired)
        curve = _curve(keys, *tables, rules.paired)
        if curve is not None:
            curves.append(curve)
    # A curve of one frontier is that frontier: judging it twice would only cost power.
    several = any(len(keys) > 1 for keys in groups.values())
    result.curves.extend(_lines(curves, rules, CURVE_SHARE if several else 1.0))
    if several:
        result.cells.extend(_lines(cells, rules, CELL_SHARE, explore=True))
    result.tokens.extend(token_lines(base, head))
    result.notes.extend(token_notes(result.tokens))
    return result


@dataclass(frozen=True, slots=True)
class _Effect:
    """Estimate over the mean of some frontiers, before it is judged with its family."""

    keys: Sequence[Key]
    base_rate: float
    head_rate: float
    estimate: Estimate
    differences: np.ndarray | None  # float64 (n_pairs,), None when unpaired


def _cells(keys: Sequence[Key], a: np.ndarray, b: np.ndarray, paired: bool) -> list[_Effect]:
    """Every frontier over those samples that have it."""
    found = []
    for place, key in enumerate(keys):
        effect = _effect([key], a[:, place : place + 1], b[:, place : place + 1], paired)
        if effect is not None:
            found.append(effect)
    return found


def _curve(keys: Sequence[Key], a: np.ndarray, b: np.ndarray, paired: bool) -> _Effect | None:
    """The mean over those frontiers that at least half of the samples have."""
    wide = grid.broad(b - a) if paired else grid.broad(a) & grid.broad(b)
    if not wide.any():
        return None
    kept = [key for key, wanted in zip(keys, wide) if wanted]
    return _effect(kept, a[:, wide], b[:, wide], paired)


def _effect(keys: Sequence[Key], a: np.ndarray, b: np.ndarray, paired: bool) -> _Effect | None:
    differences = None
    if paired:
        both = ~np.isnan(b - a)
        if not both.any(axis=0).all():
            return None  # no pair has it on both sides
        differences = grid.means(b - a)
        # A pair counts where both sides have the frontier: so do its rates.
        a, b = np.where(both, a, np.nan), np.where(both, b, np.nan)
    ours, theirs = grid.means(a), grid.means(b)
    estimate = stats.unpaired(ours, theirs) if differences is None else stats.paired(differences)
    return _Effect(keys, math.exp(ours.mean()), math.exp(theirs.mean()), estimate, differences)


def _lines(
    effects: Sequence[_Effect], rules: _Rules, share: float, explore: bool = False
) -> list[Line]:
    judged = rules.judged(effects, share)
    q_values = stats.benjamini_hochberg([j.p_value for j in judged])
    return [
        Line(
            effect.keys[0].metric,
            effect.keys[0].mode,
            effect.keys[0].ctx_tokens if explore else None,
            effect.keys[0].prefill_tokens if explore else None,
            len(effect.keys),
            effect.base_rate,
            effect.head_rate,
            judgement,
            None if effect.differences is None else stats.hodges_lehmann(effect.differences),
            None if effect.differences is None or explore else stats.bca(effect.differences),
            float(q_value) if explore else None,
        )
        for effect, judgement, q_value in zip(effects, judged, q_values)
    ]


def _unpaired_notes(base: Arm, head: Arm) -> list[str]:
    notes = [
        "unpaired, weaker: arms were not interleaved, so drift counts as effect "
        "(default tolerances doubled)"
    ]
    if "repeat" in (base.unit, head.unit):
        notes.append("samples are repeats inside one process; a new process may differ by more")
    if not base.environment and not head.environment:
        notes.append("neither file says machine, model or prompt; they are taken to be the same")
    notes += header_only_notes(base.environment, head.environment)
    for arm in (base, head):
        if not all(run.exact for run in arm.runs):
            notes.append(f"{arm.label}: rates were rounded to two decimals")
        dropped = sum(run.dropped for run in arm.runs)
        if dropped:
            notes.append(f"{arm.label}: {dropped} bytes or lines could not be read")
    return notes
