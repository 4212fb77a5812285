"""Curves to a figure: separate panels for prefill and decode, log2 context, light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from ds4bench.records.rows import mode_rank
from ds4bench.report import curves as plot_data
from ds4bench.report.curves import Curve, Source, tick_text
from engine.errors import EngineError
from engine.tooling.report import figures
from engine.tooling.report.figures import CONTEXT
from engine.tooling.report.figures import THEMES as THEMES
from engine.tooling.report.figures import theme_variables as theme_variables
from engine.tooling.report.labels import clean_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ((4, 1.6), (1.2, 1.4), (6, 1.5, 1.2, 1.5), (2.5, 1), (8, 2), (3, 1, 1, 1, 1, 1), (1, 3))
_WIDTH, _ROW_HEIGHT = 8.0, 3.05  # inches at 100 dpi
_BAND_ALPHA = 0.22
_SPEED_UP = "Decode speed-up over plain"


# Place in the legend, and the line to show there.
Entry = tuple[tuple[int, int, int], "Line2D"]


class _Styles:
    """Which colour, marker and dash a curve has, the same in every panel.

    Colour and marker tell the mode and dashes the file, or colour the file where all have one
    mode. Published curves are grey beside own ones, and coloured where they stand alone.
    """

    def __init__(self, sources: Sequence[Source], theme: str) -> None:
        palette = figures.palette(theme)
        self.own = [s.label for s in sources if not s.published]
        found = {row.series for s in sources if not s.published for row in s.run.good}
        self.modes = sorted(found, key=lambda mode: (mode_rank(mode), mode))
        self._by_file = len(self.modes) == 1
        self._colour = dict(zip(self.own if self._by_file else self.modes, cycle(palette)))
        self._marker = dict(zip(self.modes, cycle(_MARKERS)))
        published = [s.label for s in sources if s.published]
        self._dashes = dict(zip(published, cycle(_DASHES)))
        grey = [CONTEXT[theme]]
        self._published = dict(zip(published, cycle(grey if self.own else palette)))
        self._paper = figures.colour(theme, "axes.facecolor")

    def line(self, curve: Curve) -> dict[str, Any]:
        if curve.published:
            return {
                "color": self._published[curve.source],
                "dashes": self._dashes[curve.source],
                "linewidth": 1.3 if self.own else 1.7,
                "zorder": 2,
            }
        place = self.own.index(curve.source)
        style = {
            "color": self._colour[curve.source if self._by_file else curve.mode],
            "marker": self._marker[curve.mode],
            # Markers on a dense sweep merge into a rope.
            "markevery": max(1, math.ceil(len(curve.ctx) / 14)),
            "zorder": 3,
        }
        if place:
            style["dashes"] = _DASHES[(place - 1) % len(_DASHES)]
            style["markerfacecolor"] = self._paper
        return style

    def label(self, curve: Curve) -> str:
        if curve.published or (self._by_file and len(self.own) > 1):
            return curve.source
        return f"{curve.source}: {curve.mode}" if len(self.own) > 1 else curve.mode

    def legend_order(self, curve: Curve) -> tuple[int, int, int]:
        if curve.published:
            return (1, 0, 0)
        return (0, self.own.index(curve.source), self.modes.index(curve.mode))


def figure(sources: Sequence[Source], theme: str = "light", title: str = "") -> Figure:
    """Draw sources into one figure, 800 px wide.

    Parameters
    ----------
    sources : sequence of Source
        Own runs first; published ones are drawn grey and dashed.
    theme : str
        'light' or 'dark'.

    Raises
    ------
    EngineError
        If there is no finished row to draw.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(sources)
    with matplotlib.rc_context(figures.style(theme)):
        n_rows = math.ceil(len(panels) / 2)
        n_cols = min(2, len(panels))
        fig = Figure(figsize=(_WIDTH, _ROW_HEIGHT * n_rows + 0.75), layout="constrained")
        FigureCanvasAgg(fig)
        styles = _Styles(sources, theme)
        grid = fig.subplots(n_rows, n_cols, squeeze=False)
        entries: dict[str, Entry] = {}
        for axes, (name, unit, curves) in zip(grid.flat, panels):
            _panel(axes, name, unit, curves, styles, entries)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_axis_off()
        if title:
            fig.suptitle(clean_label(title, 90), fontsize=11.5, x=0.012, ha="left")
        _legend(fig, entries, _note(panels, bool(styles.own)))
    return fig


def _panels(sources: Sequence[Source]) -> list[tuple[str, str, list[Curve]]]:
    own = [s for s in sources if not s.published]

    def all_of(metric: plot_data.Metric, of: Sequence[Source]) -> list[Curve]:
        return [curve for source in of for curve in plot_data.curves(source, metric)]

    wanted = [
        ("Prefill", "tokens/s", all_of(plot_data.prefill, sources)),
        ("Decode", "tokens/s", all_of(plot_data.decode, sources)),
        (_SPEED_UP, "times plain", [c for s in own for c in plot_data.speedups(s)]),
        ("Draft tokens kept", "% of drafted", all_of(plot_data.acceptance, own)),
    ]
    panels = [panel for panel in wanted if panel[2]]
    if not panels:
        names = ", ".join(s.label for s in sources) or "nothing"
        raise EngineError(f"plot: expected at least one finished row, found none in {names}")
    return panels


def _panel(
    axes: Axes,
    name: str,
    unit: str,
    curves: Sequence[Curve],
    styles: _Styles,
    entries: dict[str, Entry],
) -> None:
    for curve in curves:
        style = styles.line(curve)
        [line] = axes.plot(curve.ctx, curve.mid, **style)
        entries.setdefault(styles.label(curve), (styles.legend_order(curve), line))
        if curve.repeats > 1:
            axes.fill_between(
                curve.ctx, curve.low, curve.high, color=style["color"], alpha=_BAND_ALPHA, lw=0
            )
            if len(curve.ctx) == 1:
                # Lists: matplotlib before 3.11 asks NumPy arrays of one element for a scalar, which
                # NumPy warns about.
                spread = [(curve.mid - curve.low).tolist(), (curve.high - curve.mid).tolist()]
                axes.errorbar(curve.ctx, curve.mid, spread, color=style["color"], capsize=3)
    axes.set_title(name)
    axes.set_ylabel(unit)
    axes.set_xlabel("context (tokens)")
    _context_axis(axes, curves)
    top = max(float(curve.high.max()) for curve in curves)
    if name == _SPEED_UP:
        _break_even(axes, curves, top)
    elif unit.startswith("%"):
        axes.set_ylim(0, 105)
    else:
        # Zero-based: a cut axis turns one per cent into a cliff.
        axes.set_ylim(0, top * 1.12)


def _break_even(axes: Axes, curves: Sequence[Curve], top: float) -> None:
    ink = axes.title.get_color()
    axes.axhline(1.0, color=ink, lw=1.0, ls=(0, (1.5, 1.5)), zorder=2)
    low = min(float(curve.low.min()) for curve in curves)
    span = max(top, 1.0) - min(low, 1.0)
    pad = max(0.14 * span, 0.05)
    axes.set_ylim(min(low, 1.0) - pad, max(top, 1.0) + pad)
    # The word goes to the corner at the line that lies farthest from any curve.
    middle = math.sqrt(axes.get_xlim()[0] * axes.get_xlim()[1])
    best = (-1.0, 1.0, "bottom")
    for x, side in ((0.0, _left_of(curves, middle)), (1.0, _right_of(curves, middle))):
        for va, sign in (("bottom", 1), ("top", -1)):
            ahead = [sign * (v - 1.0) for v in side if sign * (v - 1.0) > -0.02 * span]
            room = min(ahead, default=span)
            if room > best[0]:
                best = (room, x, va)
    _, x, va = best
    axes.annotate(
        "break-even",
        (x, 1.0),
        xycoords=("axes fraction", "data"),
        xytext=(4 - 8 * x, 3 if va == "bottom" else -3),
        textcoords="offset points",
        ha="right" if x else "left",
        va=va,
        fontsize=8.5,
        color=ink,
    )


def _left_of(curves: Sequence[Curve], middle: float) -> list[float]:
    """Edges of all bands in front of `middle`, where a word at the left could hide them."""
    return [v for c in curves for v in (*c.low[c.ctx <= middle], *c.high[c.ctx <= middle])]


def _right_of(curves: Sequence[Curve], middle: float) -> list[float]:
    """The same behind `middle`."""
    return [v for c in curves for v in (*c.low[c.ctx >= middle], *c.high[c.ctx >= middle])]


def _context_axis(axes: Axes, curves: Sequence[Curve]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    all_ctx = np.concatenate([curve.ctx for curve in curves])
    low, high = float(all_ctx.min()), float(all_ctx.max())
    axes.set_xscale("log", base=2)
    # One frontier would otherwise stand on an axis of no length.
    pad = 2.0 if low == high else (high / low) ** 0.04
    axes.set_xlim(low / pad, high * pad)
    first, last = math.ceil(math.log2(low / pad)), math.floor(math.log2(high * pad))
    ticks = [2.0**k for k in range(first, last + 1)]
    if len(ticks) < 2:
        ticks = sorted(set(all_ctx.tolist()))[:: max(1, len(set(all_ctx.tolist())) // 4)]
    elif len(ticks) > 8:
        ticks = ticks[:: math.ceil(len(ticks) / 8)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: tick_text(x)))


def _legend(fig: Figure, entries: dict[str, Entry], note: str) -> None:
    ordered = sorted(entries.items(), key=lambda item: item[1][0])
    # A label that starts with an underscore would be dropped from the legend.
    names = [f" {name}" if name.startswith("_") else name for name, _ in ordered]
    longest = max(len(name) for name in names)
    columns = max(1, min(len(names), 5, 92 // (longest + 7)))
    fig.legend(
        [line for _, (_, line) in ordered],
        names,
        loc="outside lower left",
        ncols=columns,
        handlelength=2.6,
        title=note or None,
        title_fontsize=8.5,
        alignment="left",
    )


def _note(panels: Sequence[tuple[str, str, list[Curve]]], own: bool) -> str:
    repeats = max(curve.repeats for _, _, curves in panels for curve in curves)
    parts = []
    if repeats > 1:
        parts.append(f"line: median of up to {repeats} runs; band: lowest to highest")
    if any(curve.published for _, _, curves in panels for curve in curves):
        grey = "grey: " if own else ""
        parts.append(f"{grey}published by others, see speed-bench/reference/SOURCES.md")
    return "; ".join(parts)


def render(fig: Figure, kind: str, theme: str = "light") -> bytes:
    """A figure as 'svg' or 'png' bytes; the same input gives the same bytes."""
    return figures.render(fig, kind, theme, program="ds4-bench")
