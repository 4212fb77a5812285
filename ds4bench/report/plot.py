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
from engine.tooling.report.labels import clean_label, folded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
_DASHES = ((4, 1.6), (1.2, 1.4), (6, 1.5, 1.2, 1.5), (2.5, 1), (8, 2), (3, 1, 1, 1, 1, 1), (1, 3))
_WIDTH, _NARROW, _ROW_HEIGHT = 8.0, 4.0, 3.05  # inches at 100 dpi
_LEGEND_LINE = 0.19  # inches
_BAND_ALPHA = 0.22
_SPEED_UP = "Decode speed-up over plain"
_TIMES = "times plain; dotted: break-even"
# More files in several modes get a panel for each mode, so that colours can tell the files.
_MOST_FILES = 4
# More bands over one another are mud; whiskers stand side by side.
_MOST_BANDS = 3
# They stand this factor apart, but never leave their point by more than the second one.
_BAR_STEP, _BAR_SPAN = 1.01, 1.06


# Place in the legend, and the line to show there.
Entry = tuple[tuple[int, int, int], "Line2D"]


class _Styles:
    """Which colour, marker and dash a curve has, the same in every panel.

    Colour and marker tell the mode and dashes the file where there are few files; where there are
    many, or only one mode, colour tells the file, and marker and dash tell files of one colour
    apart. Published curves are grey beside own ones, and coloured where they stand alone.
    """

    def __init__(self, sources: Sequence[Source], theme: str) -> None:
        palette = figures.palette(theme)
        self.own = [s.label for s in sources if not s.published]
        found = {row.series for s in sources if not s.published for row in s.run.good}
        self.modes = sorted(found, key=lambda mode: (mode_rank(mode), mode))
        self.by_mode = len(self.modes) > 1 and len(self.own) > _MOST_FILES
        self._by_file = len(self.modes) == 1 or self.by_mode
        self._n_colours = len(palette)
        self._colour = dict(zip(self.own if self._by_file else self.modes, cycle(palette)))
        self._marker = dict(zip(self.modes, cycle(_MARKERS)))
        published = [s.label for s in sources if s.published]
        self._dashes = dict(zip(published, cycle(_DASHES)))
        grey = [CONTEXT[theme]]
        self._published = dict(zip(published, cycle(grey if self.own else palette)))
        self._paper = figures.colour(theme, "axes.facecolor")
        # Where several machines or models are drawn, each label says its own.
        self._about = {s.label: s.about for s in sources if not s.published}
        self.several = len({text for text in self._about.values() if text}) > 1

    def line(self, curve: Curve) -> dict[str, Any]:
        if curve.published:
            return {
                "color": self._published[curve.source],
                "dashes": self._dashes[curve.source],
                "linewidth": 1.3 if self.own else 1.7,
                "zorder": 2,
            }
        place = self.own.index(curve.source)
        marker, dash = self._marker[curve.mode], place
        if self._by_file:
            # With as many colours, markers and dashes as coprime counts, 462 files differ.
            dash = place // self._n_colours
            marker = _MARKERS[dash % len(_MARKERS)]
        style = {
            "color": self._colour[curve.source if self._by_file else curve.mode],
            "marker": marker,
            # Markers on a dense sweep merge into a rope.
            "markevery": max(1, math.ceil(len(curve.ctx) / 14)),
            "zorder": 3,
        }
        if dash:
            style["dashes"] = _DASHES[(dash - 1) % len(_DASHES)]
            style["markerfacecolor"] = self._paper
        return style

    def label(self, curve: Curve) -> str:
        about = self._about.get(curve.source, "")
        name = f"{curve.source} ({about})" if self.several and about else curve.source
        if curve.published or (self._by_file and len(self.own) > 1):
            return name
        return f"{name}: {curve.mode}" if len(self.own) > 1 else curve.mode

    def legend_order(self, curve: Curve) -> tuple[int, int, int]:
        if curve.published:
            return (1, 0, 0)
        return (0, self.own.index(curve.source), self.modes.index(curve.mode))


def figure(
    sources: Sequence[Source], theme: str = "light", title: str = "", *, narrow: bool = False
) -> Figure:
    """Draw sources into one figure, two panels wide.

    Parameters
    ----------
    sources : sequence of Source
        Own runs first; published ones are drawn grey and dashed.
    theme : str
        'light' or 'dark'.
    title : str
    narrow : bool
        One panel wide, for phones.

    Raises
    ------
    EngineError
        If there is no finished row to draw.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(figures.style(theme)):
        styles = _Styles(sources, theme)
        panels = _panels(sources, styles)
        n_cols = 1 if narrow else min(2, len(panels))
        n_rows = math.ceil(len(panels) / n_cols)
        width = _NARROW if narrow else _WIDTH
        fig = Figure(figsize=(width, _ROW_HEIGHT * n_rows + 0.75), layout="constrained")
        FigureCanvasAgg(fig)
        grid = fig.subplots(n_rows, n_cols, squeeze=False)
        entries: dict[str, Entry] = {}
        for axes, (name, unit, curves) in zip(grid.flat, panels):
            _panel(axes, name, unit, curves, styles, entries)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_axis_off()
        heading = _heading(sources, styles, title)
        if heading:
            heading = folded(heading, round(13.5 * width))
            fig.suptitle(heading, fontsize=10, x=0.012, ha="left")
        lines = _legend(fig, entries, _note(sources, panels, bool(styles.own)))
        # A legend of many lines must not take its room from the panels.
        fig.set_figheight(fig.get_figheight() + _LEGEND_LINE * max(0, lines - 3))
    return fig


def _heading(sources: Sequence[Source], styles: _Styles, title: str) -> str:
    """The title, and under it machine and model where all runs share them."""
    about = {s.about for s in sources if not s.published and s.about}
    shared = next(iter(about)) if len(about) == 1 and not styles.several else ""
    return "\n".join(part for part in (clean_label(title, 90), shared) if part)


def _panels(sources: Sequence[Source], styles: _Styles) -> list[tuple[str, str, list[Curve]]]:
    own = [s for s in sources if not s.published]
    comparable = [plot_data.like(s, own) if s.published else s for s in sources]

    def all_of(metric: plot_data.Metric, of: Sequence[Source]) -> list[Curve]:
        return [curve for source in of for curve in plot_data.curves(source, metric)]

    wanted = [
        ("Prefill", "tokens/s", all_of(plot_data.prefill, comparable)),
        *_split("Decode", "tokens/s", all_of(plot_data.decode, sources), styles),
        *_split(_SPEED_UP, _TIMES, [c for s in own for c in plot_data.speedups(s)], styles),
        *_split("Draft tokens kept", "% of drafted", all_of(plot_data.acceptance, own), styles),
        *_split("Energy of decoding", "J/token", all_of(plot_data.joules, own), styles),
    ]  # fmt: skip
    panels = [panel for panel in wanted if panel[2]]
    if not panels:
        names = ", ".join(s.label for s in sources) or "nothing"
        raise EngineError(f"plot: expected at least one finished row, found none in {names}")
    return panels


def _split(
    name: str, unit: str, curves: list[Curve], styles: _Styles
) -> list[tuple[str, str, list[Curve]]]:
    """One panel, or one for each mode where there are many files."""
    if not styles.by_mode:
        return [(name, unit, curves)]
    modes = sorted({curve.mode for curve in curves}, key=lambda mode: (mode_rank(mode), mode))
    name = name.removeprefix("Decode ").capitalize()  # a panel's title has room for one line
    return [(f"{name}, {mode}", unit, [c for c in curves if c.mode == mode]) for mode in modes]


def _panel(
    axes: Axes,
    name: str,
    unit: str,
    curves: Sequence[Curve],
    styles: _Styles,
    entries: dict[str, Entry],
) -> None:
    spread = [curve for curve in curves if curve.repeats > 1]
    for place, curve in enumerate(curves):
        style = styles.line(curve)
        [line] = axes.plot(curve.ctx, curve.mid, **style)
        entries.setdefault(styles.label(curve), (styles.legend_order(curve), line))
        if curve.repeats < 2:
            continue
        if len(spread) <= _MOST_BANDS and len(curve.ctx) > 1:
            axes.fill_between(
                curve.ctx, curve.low, curve.high, color=style["color"], alpha=_BAND_ALPHA, lw=0
            )
        else:
            middle = (len(curves) - 1) / 2
            shift = min(_BAR_STEP, _BAR_SPAN ** (1 / max(middle, 1))) ** (place - middle)
            axes.vlines(curve.ctx * shift, curve.low, curve.high, color=style["color"], lw=1)
    axes.set_title(name)
    axes.set_ylabel(unit)
    axes.set_xlabel("context (tokens)")
    _context_axis(axes, curves)
    top = max(float(curve.high.max()) for curve in curves)
    if unit == _TIMES:
        _break_even(axes, curves, top)
    elif unit.startswith("%"):
        axes.set_ylim(0, 105)
    else:
        # Zero-based: a cut axis turns one per cent into a cliff.
        axes.set_ylim(0, top * 1.12)


def _break_even(axes: Axes, curves: Sequence[Curve], top: float) -> None:
    """The line at which a mode is as fast as plain; its word is in the axis' name, off the data."""
    axes.axhline(1.0, color=axes.title.get_color(), lw=1.0, ls=(0, (1.5, 1.5)), zorder=2)
    low = min(float(curve.low.min()) for curve in curves)
    span = max(top, 1.0) - min(low, 1.0)
    pad = max(0.14 * span, 0.05)
    axes.set_ylim(min(low, 1.0) - pad, max(top, 1.0) + pad)


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


def _legend(fig: Figure, entries: dict[str, Entry], note: str) -> int:
    """Draws the legend under the panels; returns its lines."""
    ordered = sorted(entries.items(), key=lambda item: item[1][0])
    # A label that starts with an underscore would be dropped from the legend.
    names = [f" {name}" if name.startswith("_") else name for name, _ in ordered]
    room = round(11.5 * fig.get_figwidth())  # letters
    names = [folded(name, room - 7) for name in names]
    note = folded(note, round(14 * fig.get_figwidth()))
    longest = max(len(line) for name in names for line in name.split("\n"))
    columns = max(1, min(len(names), 5, room // (longest + 7)))
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
    tallest = max(name.count("\n") + 1 for name in names)
    return math.ceil(len(names) / columns) * tallest + (note.count("\n") + 1 if note else 0)


def _note(
    sources: Sequence[Source], panels: Sequence[tuple[str, str, list[Curve]]], own: bool
) -> str:
    repeats = max(curve.repeats for _, _, curves in panels for curve in curves)
    parts = []
    if repeats > 1:
        parts.append(f"line: median of up to {repeats} runs; band or bar: lowest to highest")
    if any(curve.published for _, _, curves in panels for curve in curves):
        grey = "grey: " if own else ""
        parts.append(f"{grey}published by others, see speed-bench/reference/SOURCES.md")
    mine = [s for s in sources if not s.published]
    if plot_data.steps_differ(mine):
        parts.append("prefill: these files add other numbers of tokens, do not compare them")
    elif any(len(plot_data.like(s, mine).run.rows) < len(s.run.rows)
             for s in sources if s.published):  # fmt: skip
        parts.append("published prefill is drawn where it added as many tokens")
    return "\n".join(parts)


def render(fig: Figure, kind: str, theme: str = "light") -> bytes:
    """A figure as 'svg' or 'png' bytes; the same input gives the same bytes."""
    return figures.render(fig, kind, theme, program="ds4-bench")
