"""Judges head against base: rows of two arms become a table of effects with verdicts.

The statistics are those of `ds4bench.compare.stats`; nothing here reads files or prints.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ds4bench.compare import stats
from ds4bench.compare.models import header_only
from ds4bench.compare.samples import (
    Arm,
    Difference,
    Key,
    Sample,
    broken_cells,
    common_keys,
    sample_of,
    samples,
    tokens_per_step,
    unlike,
)
from ds4bench.compare.stats import Estimate, Judgement, Verdict
from ds4bench.records.rows import mode_rank
from engine.tooling import exits
from engine.tooling.report.intervals import Interval


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
class TokensLine:
    """Tokens per step of a speculative mode at one frontier, compared exactly."""

    mode: str
    ctx_tokens: int
    base: float
    head: float
    same: bool
    deterministic: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that a comparison found.

    Attributes
    ----------
    curves, cells : lists of Line
        Two families, each judged with Holm at half of five per cent one-sided, so that a
        report cries wolf in at most five per cent of cases even on the tolerance line.
    unlike : list of Difference
        Fields in which the arms differ and that were not allowed to; no verdict then.
    allowed : list of Difference
        Those that were.
    broken : list of str
        Cells that head can no longer do.
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
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict | None:
        """None where the arms must not be compared."""
        if self.unlike:
            return None
        if self.broken:
            return Verdict.REGRESSED
        return stats.overall([c.judgement for c in self.curves], [c.judgement for c in self.cells])

    def exit_code(self, strict: bool = False) -> int:
        """Status of `engine.tooling.exits` for this outcome."""
        if self.verdict is None:
            return exits.INCOMPARABLE
        if self.verdict is Verdict.REGRESSED:
            return exits.REGRESSION
        if strict and self.verdict is not Verdict.FINE:
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
    return "decode_mtp" if metric == "decode" and mode != "plain" else metric


def compare(
    base: Arm,
    head: Arm,
    tolerances: Mapping[str, float] | None = None,
    allow: Sequence[str] = (),
) -> Comparison:
    """Compare two runs that were not interleaved: Welch on logs, tolerances doubled."""
    differing = unlike(base, head)
    refused = [d for d in differing if d.name not in allow]
    ours, theirs = samples(base), samples(head)
    result = _compared(base, head, ours, theirs, tolerances or {}, paired=False)
    result.unlike.extend(refused)
    result.allowed.extend(d for d in differing if d.name in allow)
    result.notes.extend(_unpaired_notes(base, head))
    if not result.curves and not refused:
        result.unlike.append(Difference("sweep", "rows of equal mode, ctx and prefill", "none"))
    return result


def compare_pairs(
    base: Sequence[Arm],
    head: Sequence[Arm],
    tolerances: Mapping[str, float] | None = None,
    allow: Sequence[str] = (),
) -> Comparison:
    """Compare interleaved pairs: arms of the same index were measured next to each other.

    Each arm is one sweep in a fresh process, whatever its repeats: one sample.
    """
    joined = [
        Arm(arms[0].label, tuple(run for arm in arms for run in arm.runs)) for arms in (base, head)
    ]
    ours, theirs = ([sample_of(arm.rows) for arm in arms] for arms in (base, head))
    result = _compared(joined[0], joined[1], ours, theirs, tolerances or {}, paired=True)
    differing = unlike(base[0], head[0])
    result.unlike.extend(d for d in differing if d.name not in allow)
    result.allowed.extend(d for d in differing if d.name in allow)
    if not result.curves and not result.unlike:
        result.unlike.append(Difference("sweep", "rows of equal mode, ctx and prefill", "none"))
    return result


def _compared(
    base: Arm,
    head: Arm,
    ours: Sequence[Sample],
    theirs: Sequence[Sample],
    given: Mapping[str, float],
    *,
    paired: bool,
) -> Comparison:
    keys = common_keys([*ours, *theirs])
    result = Comparison(
        base.label,
        head.label,
        paired,
        "pair" if paired else base.unit,
        len(ours),
        len(theirs),
        broken=broken_cells(base, head),
    )
    # A cell that only some samples have would compare different sets of sweeps.
    spotty = sorted({k for s in [*ours, *theirs] for k in s} - set(keys), key=lambda k: k.order)
    if keys and spotty:
        named = ", ".join(f"{k.metric} {k.mode} {k.ctx_tokens}" for k in spotty[:4])
        more = f" and {len(spotty) - 4} more" if len(spotty) > 4 else ""
        result.notes.append(f"not in every sample, left out: {named}{more}")
    a = {k: np.array([s[k] for s in ours]) for k in keys}
    b = {k: np.array([s[k] for s in theirs]) for k in keys}
    groups: dict[tuple[str, str], list[Key]] = defaultdict(list)
    for key in keys:
        groups[key.metric, key.mode].append(key)
    curves = [_effect(group, a, b, paired) for group in groups.values()]
    result.curves.extend(_judged(curves, given, paired))
    # A curve of one frontier is that frontier: judging it twice would only cost power.
    if any(len(group) > 1 for group in groups.values()):
        cells = [_effect([key], a, b, paired) for key in keys]
        result.cells.extend(_judged(cells, given, paired, explore=True))
    result.tokens.extend(_tokens(base, head))
    result.notes.extend(_token_notes(result.tokens))
    return result


@dataclass(frozen=True, slots=True)
class _Effect:
    """Estimate over the mean of some frontiers, before it is judged with its family."""

    keys: Sequence[Key]
    base_rate: float
    head_rate: float
    estimate: Estimate
    differences: np.ndarray | None  # float64 (n_pairs,), None when unpaired


def _effect(
    keys: Sequence[Key],
    a: Mapping[Key, np.ndarray],
    b: Mapping[Key, np.ndarray],
    paired: bool,
) -> _Effect:
    ours = np.mean([a[k] for k in keys], axis=0)
    theirs = np.mean([b[k] for k in keys], axis=0)
    differences = theirs - ours if paired else None
    estimate = stats.unpaired(ours, theirs) if differences is None else stats.paired(differences)
    return _Effect(keys, math.exp(ours.mean()), math.exp(theirs.mean()), estimate, differences)


def _judged(
    effects: Sequence[_Effect], given: Mapping[str, float], paired: bool, explore: bool = False
) -> list[Line]:
    limits = [tolerance_of(e.keys[0].metric, e.keys[0].mode, given, paired=paired) for e in effects]
    judged = stats.judge([e.estimate for e in effects], limits)
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


def _tokens(base: Arm, head: Arm) -> list[TokensLine]:
    ours, theirs = tokens_per_step(base.rows), tokens_per_step(head.rows)
    lines = []
    for mode, ctx in sorted(set(ours) & set(theirs), key=lambda c: (mode_rank(c[0]), c)):
        a, b = ours[mode, ctx], theirs[mode, ctx]
        before, after = (sum(g for g, _ in s) / sum(n for _, n in s) for s in (a, b))
        lines.append(TokensLine(mode, ctx, before, after, a == b, len(a) == 1 and len(b) == 1))
    return lines


def _token_notes(lines: Sequence[TokensLine]) -> list[str]:
    changed = [line for line in lines if not line.same]
    if not changed:
        return []
    named = ", ".join(
        f"{c.mode} at {c.ctx_tokens} ({c.base:.3f} -> {c.head:.3f})" for c in changed[:4]
    )
    return [
        f"tokens per step differ in {len(changed)} of {len(lines)} cells: {named}; "
        "decode compares other work there, steps per second does not"
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
    if header_only(base.environment) or header_only(head.environment):
        notes.append(
            "model: header only: a record of an earlier release does not tell files with equal "
            "headers and other weights apart"
        )
    for arm in (base, head):
        if not all(run.exact for run in arm.runs):
            notes.append(f"{arm.label}: rates were rounded to two decimals")
        dropped = sum(run.dropped for run in arm.runs)
        if dropped:
            notes.append(f"{arm.label}: {dropped} bytes or lines could not be read")
    return notes
