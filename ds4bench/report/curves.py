"""Rows to curves: what a panel draws, with its spread over repeats. No drawing here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import numpy as np

from ds4bench.records.rows import SpeedRow, SweepResult, mode_rank
from engine.tooling.report.labels import clean_label

Points = dict[int, list[float]]  # values of one mode by context length
Metric = Callable[[SpeedRow], "float | None"]


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a panel.

    Attributes
    ----------
    source, mode : str
        Label of the file (or published curve) and series (`SpeedRow.series`).
    published : bool
        A curve of somebody else's machine, drawn as context.
    ctx : int64 array of shape (n,)
        Context lengths in tokens, ascending.
    mid, low, high : float64 arrays of shape (n,)
        Median, lowest and highest over repeats.
    repeats : int
        Most values that any point has.
    """

    source: str
    mode: str
    published: bool
    ctx: np.ndarray
    mid: np.ndarray
    low: np.ndarray
    high: np.ndarray
    repeats: int


@dataclass(frozen=True, slots=True)
class Source:
    """A run and the name that it is shown under."""

    label: str
    run: SweepResult
    published: bool = False

    @property
    def about(self) -> str:
        """Machine and model, as far as the record says; '' for bare rates.

        Of a server it is the address: the record's processor is the client's.
        """
        env = self.run.environment
        gpu, cpu, engine = (_part(env, name) for name in ("gpu", "cpu", "engine"))
        plan = _part(env, "fingerprint") or _part(env, "plan")
        if plan.get("server"):
            name = PurePath(str(_part(env, "server").get("model") or "")).name
            parts = (f"server {plan['server']}", name)
            return clean_label("; ".join(part for part in parts if part), 90)
        on_device = plan.get("backend", "cpu") == "cuda"
        machine = (gpu.get("name") or engine.get("device_name")) if on_device else None
        threads = engine.get("threads") or plan.get("threads") or cpu.get("usable_cores")
        if machine is None and cpu.get("name"):
            count = f", {threads} thread{'' if threads == 1 else 's'}" if threads else ""
            machine = f"{cpu['name']}{count}"
        files = env.get("model")
        first = files[0] if isinstance(files, list) and files else {}
        path = str(first.get("path") or "") if isinstance(first, dict) else ""
        model = PurePath(path).name or env.get("model_name")
        return clean_label("; ".join(str(part) for part in (machine, model) if part), 90)


def _part(environment: dict[str, Any], name: str) -> dict[str, Any]:
    value = environment.get(name)
    return value if isinstance(value, dict) else {}


def steps(source: Source) -> dict[int, set[int]]:
    """Tokens that prefills added, by context length."""
    found: dict[int, set[int]] = defaultdict(set)
    for row in source.run.good:
        found[row.ctx_tokens].add(row.prefill_tokens)
    return dict(found)


def like(source: Source, own: Sequence[Source]) -> Source:
    """A published source with the rows whose prefill added as many tokens as own runs' do.

    The rate of the last 2048 tokens of 8192 and that of 8192 from nothing are two experiments. At a
    context that no own run has, a row counts where all own prefills are of one size, which is its.
    """
    mine: dict[int, set[int]] = defaultdict(set)
    for one in own:
        for ctx, sizes in steps(one).items():
            mine[ctx] |= sizes
    if not mine:
        return source
    everywhere = set().union(*mine.values())
    rows = tuple(
        row
        for row in source.run.rows
        if row.prefill_tokens
        in mine.get(row.ctx_tokens, everywhere if len(everywhere) == 1 else set())
    )
    return replace(source, run=replace(source.run, rows=rows))


def steps_differ(own: Sequence[Source]) -> bool:
    """Whether prefills of some context are not of one size in all runs."""
    mine: dict[int, set[int]] = defaultdict(set)
    for one in own:
        for ctx, sizes in steps(one).items():
            mine[ctx] |= sizes
    return any(len(sizes) > 1 for sizes in mine.values())


def prefill(row: SpeedRow) -> float | None:
    """Prefill rate in tokens per second; a shared measurement counts once, with its owner."""
    return None if row.prefill_shared else row.prefill_tps


def decode(row: SpeedRow) -> float | None:
    """Decode rate in tokens per second."""
    return row.gen_tps


def joules(row: SpeedRow) -> float | None:
    """Energy of a decoded token."""
    return row.gen_joules_per_token


def acceptance(row: SpeedRow) -> float | None:
    """Kept share of drafted tokens in per cent."""
    return None if row.acceptance is None else 100 * row.acceptance


def curves(source: Source, metric: Metric) -> list[Curve]:
    """A curve per series for which the metric is known anywhere, in the modes' order."""
    cells: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in source.run.good:
        value = metric(row)
        if value is not None:
            cells[row.series][row.ctx_tokens].append(value)
    return [_curve(source, mode, points) for mode, points in _by_mode(cells)]


def speedups(source: Source) -> list[Curve]:
    """Decode rate over plain's of the same run, frontier and prefill, for every other mode."""
    plain = {
        (*row.scene, row.prefill_tokens): row.gen_tps
        for row in source.run.good
        if row.mode == "plain"
    }
    cells: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in source.run.good:
        base = plain.get((*row.scene, row.prefill_tokens))
        if row.mode != "plain" and base and row.gen_tps:
            cells[row.series][row.ctx_tokens].append(row.gen_tps / base)
    return [_curve(source, mode, points) for mode, points in _by_mode(cells)]


def _by_mode(cells: dict[str, Points]) -> Iterable[tuple[str, Points]]:
    return sorted(cells.items(), key=lambda item: (mode_rank(item[0]), item[0]))


def _curve(source: Source, mode: str, points: dict[int, list[float]]) -> Curve:
    ctx = sorted(points)
    return Curve(
        source.label,
        mode,
        source.published,
        np.array(ctx, dtype=np.int64),
        np.array([np.median(points[c]) for c in ctx]),
        np.array([min(points[c]) for c in ctx]),
        np.array([max(points[c]) for c in ctx]),
        max(len(points[c]) for c in ctx),
    )


def tick_text(ctx: float) -> str:
    """Context length as a tick: 512, 2k, 64k, 1M; whole numbers only where exact."""
    for unit, letter in ((1 << 20, "M"), (1 << 10, "k")):
        if ctx >= unit:
            value = ctx / unit
            return f"{value:.0f}{letter}" if value == int(value) else f"{value:.3g}{letter}"
    return f"{ctx:.0f}"
