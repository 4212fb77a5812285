"""The figure of a panel: why one machine has many speeds.

On the left every kind of text with its rate in each mode. On the right the same points against the
tokens that a step gave: points of a mode lie on a curve, which is what its steps cost, and the mode
pays where that curve is above plain's line. What is computed is hollow and named so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ds4bench.panel.costs import PLAIN, Computed, StepCosts, step_costs
from ds4bench.panel.summary import position_text
from ds4bench.records.derived import mode_rank, percentile
from ds4bench.records.rows import SpeedRow
from engine.errors import EngineError
from engine.tooling.report import figures
from engine.tooling.report.labels import clean_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CONTEXTS = 3
_MARKERS = ("o", "s", "^", "D", "v", "P")
# Rates by kind of text and mode at one context.
Rates = dict[str, dict[str, list[SpeedRow]]]


def has_classes(rows: Sequence[SpeedRow]) -> bool:
    """Whether rows are of a prompt set."""
    return any(row.text_class for row in rows)


def panel_figure(
    rows: Sequence[SpeedRow],
    asked: Sequence[Computed] = (),
    theme: str = "light",
    title: str = "",
) -> Figure:
    """Draw a panel.

    Parameters
    ----------
    rows : sequence of SpeedRow
    asked : sequence of Computed
        Drawn hollow, and named as computed.

    Raises
    ------
    EngineError
        If there is no finished row to draw.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    good = [row for row in rows if row.ok and row.gen_tps]
    if not good:
        raise EngineError("plot: expected at least one finished row of a panel, found none")
    contexts = _few(sorted({row.ctx_tokens for row in good}))
    modes = sorted({row.mode for row in good}, key=lambda mode: (mode_rank(mode), mode))
    kinds = len({row.text_class for row in good})
    with matplotlib.rc_context(figures.style(theme)):
        height = len(contexts) * (1.0 + 0.31 * max(kinds, 5)) + 0.8
        fig = Figure(figsize=(8.0, height), layout="constrained")
        FigureCanvasAgg(fig)
        grid = fig.subplots(len(contexts), 2, squeeze=False, width_ratios=(1.15, 1))
        colours = dict(zip(modes, figures.palette(theme)))
        drafters = _drafters(good, modes)
        costs = step_costs(good)
        for (left, right), ctx in zip(grid, contexts):
            here: Rates = defaultdict(lambda: defaultdict(list))
            for row in good:
                if row.ctx_tokens == ctx:
                    here[row.text_class or "text"][row.mode].append(row)
            _dots(left, here, modes, colours, drafters, ctx)
            mine = [one for one in costs if one.ctx_tokens == ctx]
            results = [one for one in asked if one.costs.ctx_tokens == ctx]
            _lines(right, here, colours, mine, results)
        if title:
            fig.suptitle(clean_label(title, 90), fontsize=11.5, x=0.012, ha="left")
        entries = {
            text: line
            for axes in grid.flat
            for line, text in zip(*axes.get_legend_handles_labels())
        }
        fig.legend(
            list(entries.values()),
            list(entries),
            loc="outside lower left",
            ncols=max(1, min(len(entries), 4, 92 // (max(map(len, entries)) + 7))),
            title=_note(drafters),
            title_fontsize=8.5,
            alignment="left",
        )
    return fig


def _note(drafters: Sequence[str]) -> str:
    first = "dotted: plain; curves: tokens of a step over its cost"
    if not drafters:
        return first
    return f"numbers: drafts kept by position in %, {' | '.join(drafters)}\n{first}"


def _few(values: list[int]) -> list[int]:
    if len(values) <= MOST_CONTEXTS:
        return values
    return sorted({values[0], values[len(values) // 2], values[-1]})


def _rate(rows: Sequence[SpeedRow]) -> float:
    return percentile([row.gen_tps for row in rows if row.gen_tps], 50) or 0.0


def _drafters(rows: Sequence[SpeedRow], modes: Sequence[str]) -> list[str]:
    """The modes that draft; of those whose drafts fared alike in every kind, the first."""
    groups: dict[tuple[tuple[int, str, str], ...], str] = {}
    for mode in modes:
        mine: dict[tuple[int, str], list[SpeedRow]] = defaultdict(list)
        for row in rows:
            if row.mode == mode:
                mine[row.ctx_tokens, row.text_class].append(row)
        texts = [(*place, position_text(those)) for place, those in sorted(mine.items())]
        if mode != PLAIN and any(text for _, _, text in texts):
            groups.setdefault(tuple(texts), mode)
    return list(groups.values())


def _dots(
    axes: Axes,
    here: Rates,
    modes: Sequence[str],
    colours: dict[str, str],
    drafters: Sequence[str],
    ctx: int,
) -> None:
    """A row per kind, slowest below: where modes lie, and what each drafter's positions kept."""
    order = sorted(here, key=lambda kind: sorted(map(_rate, here[kind].values()), reverse=True))
    top = 0.0
    for place, kind in enumerate(order):
        rates = {mode: _rate(here[kind][mode]) for mode in modes if here[kind].get(mode)}
        top = max(top, *rates.values())
        axes.plot(
            [min(rates.values()), max(rates.values())], [place, place],
            color=axes.xaxis.label.get_color(), lw=0.8, alpha=0.5, zorder=1,
        )  # fmt: skip
        for number, (mode, rate) in enumerate(rates.items()):
            axes.plot(
                rate, place, linestyle="", color=colours[mode],
                marker=_MARKERS[modes.index(mode) % len(_MARKERS)], ms=6, label=mode,
                zorder=3 + number,
            )  # fmt: skip
    if drafters:
        # An axis of its own outside the panel: no text may lie on a point.
        beside = axes.secondary_yaxis("right")
        kept = [[position_text(here[kind].get(mode, [])) for mode in drafters] for kind in order]
        names = [" | ".join(text or "-" for text in texts) for texts in kept]
        beside.set_yticks(range(len(order)), names, fontsize=7.5)
        beside.tick_params(length=0, pad=2)
        beside.spines["right"].set_visible(False)
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_xlim(0, top * 1.06)
    axes.set_xlabel("tokens/s")
    axes.set_title(f"Decode at {ctx} tokens, and drafts kept", fontsize=9)


def _lines(
    axes: Axes,
    here: Rates,
    colours: dict[str, str],
    costs: Sequence[StepCosts],
    results: Sequence[Computed],
) -> None:
    """Rate against tokens per step, with each mode's line of cost and where it breaks even."""
    modes = list(colours)
    points: list[tuple[float, float]] = []
    for by_mode in here.values():
        for mode, rows in by_mode.items():
            per_step = percentile([row.tokens_per_step for row in rows if row.tokens_per_step], 50)
            if mode == PLAIN or per_step is None:
                continue
            points.append((per_step, _rate(rows)))
            marker = _MARKERS[modes.index(mode) % len(_MARKERS)]
            axes.plot(*points[-1], marker=marker, linestyle="", color=colours[mode], ms=5.5)
    points += [(one.tokens_per_step, one.tps) for one in results]
    right = max([x for x, _ in points] + [one.break_even or 1.0 for one in costs] + [1.2]) * 1.06
    for number, one in enumerate(costs):
        x = np.linspace(1.0, min(max(right, 1.2), one.depth + 1), 60)
        axes.plot(x, x / [one.cost(n) for n in x], color=colours[one.mode], lw=1.1, alpha=0.8)
        if one.break_even is not None:
            axes.annotate(
                f"{one.break_even:.2f}", (one.break_even, 1 / one.plain_s), fontsize=7.5,
                color=colours[one.mode], xytext=(2, -9 - 9 * (number % 3)), ha="left",
                textcoords="offset points",
            )  # fmt: skip
    ink = colours.get(PLAIN, axes.title.get_color())
    for plain_s in {one.plain_s for one in costs}:
        axes.axhline(1 / plain_s, color=ink, lw=1.2, ls=(0, (1.5, 1.5)))
    for result in results:
        axes.plot(
            result.tokens_per_step, result.tps, marker="*", ms=11, linestyle="",
            markerfacecolor="none", color=colours.get(result.costs.mode, "grey"),
            label=f"computed: {result.costs.mode}, {clean_label(result.accept, 30)}",
        )  # fmt: skip
    top = max([y for _, y in points] + [1 / one.plain_s for one in costs] + [0.0])
    if not points:
        axes.text(0.5, 0.5, "no mode that drafts", transform=axes.transAxes, ha="center")
    axes.set_xlim(0.95, right)
    axes.set_ylim(0, (top or 1.0) * 1.15)
    axes.set_xlabel("tokens per step")
    axes.set_ylabel("tokens/s")
    axes.set_title("Tokens per step, and break-even", fontsize=9)
