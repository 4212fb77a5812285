"""Series of a history to a figure: a panel each, with levels and where they changed."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from ds4bench.compare.history import Series
from ds4bench.compare.trends import change_text, name_of, shown
from engine.errors import OptionError
from engine.tooling.report import figures
from engine.tooling.report.labels import clean_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT, _COLUMNS = 8.0, 2.3, 2  # inches
MOST_PANELS = 24


def figure(found: Sequence[Series], theme: str = "light", title: str = "") -> Figure:
    """A panel for each series of more than one point.

    Raises
    ------
    OptionError
        If there is none, or there are more than a page holds.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = [one for one in found if len(one.points) > 1]
    if not drawn:
        raise OptionError("history: expected a series of two points or more, found none to draw")
    if len(drawn) > MOST_PANELS:
        raise OptionError(
            f"history: expected at most {MOST_PANELS} series to draw, found {len(drawn)} "
            "(choose with --metric, --mode and --ctx)"
        )
    with matplotlib.rc_context(figures.style(theme)):
        n_cols = min(_COLUMNS, len(drawn))
        n_rows = math.ceil(len(drawn) / n_cols)
        fig = Figure(figsize=(_WIDTH, _HEIGHT * n_rows + 0.4), layout="constrained")
        FigureCanvasAgg(fig)
        grid = fig.subplots(n_rows, n_cols, squeeze=False)
        for axes, one in zip(grid.flat, drawn):
            _panel(axes, one, theme)
        for axes in list(grid.flat)[len(drawn) :]:
            axes.set_axis_off()
        key = "a point per commit, oldest first; thick: level; dotted: change of level"
        heading = f"{clean_label(title, 100)}\n{key}" if title else key
        fig.suptitle(heading, fontsize=10, x=0.012, ha="left")
    return fig


def _panel(axes: Axes, one: Series, theme: str) -> None:
    colours = figures.palette(theme)
    metric = one.key.metric
    values = [shown(metric, point.rate)[0] for point in one.points]
    unit = shown(metric, one.points[0].rate)[1]
    places = range(len(values))
    axes.plot(places, values, color=colours[0], marker="o", markersize=3.5, linewidth=1)
    edges = [0, *(change.index for change in one.changes), len(values)]
    for start, stop in pairwise(edges):
        level = median(values[start:stop])
        axes.plot([start - 0.4, stop - 0.6], [level] * 2, color=colours[1], linewidth=2, zorder=4)
    low, high = min(values), max(values)
    # At least two per cent: noise of a tenth of that must not look like a cliff.
    room = max(high - low, 0.02 * high)
    middle = (low + high) / 2
    axes.set_ylim(middle - 0.75 * room, middle + 0.85 * room)
    for change in one.changes:
        axes.axvline(change.index - 0.5, color=colours[1], linewidth=1, linestyle=(0, (2, 2)))
        commit = one.points[change.index].commit[:9] or "unknown commit"
        right = change.index > len(values) / 2
        axes.annotate(
            f"{change_text(metric, change)} at {clean_label(commit, 12)}",
            (change.index - 0.5, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-3 if right else 3, -3),
            textcoords="offset points",
            ha="right" if right else "left",
            va="top",
            fontsize=8,
        )
    axes.set_title(name_of(one))
    axes.set_ylabel(unit)
    step = max(1, math.ceil(len(values) / 6))
    axes.set_xticks(list(places)[::step])
    years = {time.gmtime(point.at).tm_year for point in one.points}
    form = "%m-%d" if len(years) == 1 else "%Y-%m"
    axes.set_xticklabels(
        [time.strftime(form, time.gmtime(point.at)) for point in one.points[::step]]
    )
