"""Rows to curves: what a panel draws, with its spread over repeats. No drawing here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ds4bench.records.rows import SpeedRow, SweepResult, mode_rank

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


def prefill(row: SpeedRow) -> float | None:
    """Prefill rate in tokens per second; a shared measurement counts once, with its owner."""
    return None if row.prefill_shared else row.prefill_tps


def decode(row: SpeedRow) -> float | None:
    """Decode rate in tokens per second."""
    return row.gen_tps


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
