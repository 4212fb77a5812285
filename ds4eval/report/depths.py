"""Score over length of the text and depth of the fact, as a figure, light or dark.

Drawn for runs whose questions name both (`ds4eval.questions.long`); labels are untrusted text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ds4eval.compare.pairs import verdict_of
from ds4eval.grading.grade import PASS
from ds4eval.report.scores import RunScores
from engine.tooling.report import figures
from engine.tooling.report.labels import clean_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LENGTH, DEPTH, TASK = "length", "depth", "task"
# From a cell with nothing right to a full one, and the text on either: colours of their own, since
# a page swaps those of a theme, and a scale must stay a scale.
_NONE, _FULL = "#fafcff", "#0b5ea8"
_DARK, _LIGHT = "#10243d", "#fefefe"
# A share of right answers: (right, of).
Share = tuple[int, int]


def shares(run: RunScores, row: str) -> tuple[list[str], list[str], dict[tuple[str, str], Share]]:
    """Right answers by a stratum and by length.

    Returns
    -------
    rows, columns : list of str
        Values of `row` and lengths, each in order of its number, or of first appearance.
    found : dict of (row, column) to (right, of)
        Only of pairs that were asked.
    """
    found: dict[tuple[str, str], Share] = {}
    for question in run.arm.questions:
        place = question.group(row), question.group(LENGTH)
        if not all(place):
            continue
        right, of = found.get(place, (0, 0))
        passed = sum(verdict_of(s, run.grader) == PASS for s in question.samples)
        found[place] = right + passed, of + len(question.samples)
    rows = sorted(dict.fromkeys(r for r, _ in found), key=_size)
    columns = sorted(dict.fromkeys(c for _, c in found), key=_size)
    return rows, columns, found


def _size(text: str) -> float:
    """Number at the beginning of 4k, 256k, 50; all names are equal and keep their order."""
    match = re.match(r"[0-9]+(?:\.[0-9]+)?", text)
    return float(match[0]) if match else 0.0


def depth_figure(run: RunScores, theme: str = "light") -> Figure | None:
    """Share right by depth and length, and by task and length; None for other questions."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    depths = shares(run, DEPTH)
    if not depths[2]:
        return None
    panels = [(depths, "Share right by depth of the fact", "depth in per cent of the text")]
    tasks = shares(run, TASK)
    if len(tasks[0]) > 1:
        panels.append((tasks, "Share right by task", ""))
    with matplotlib.rc_context(figures.style(theme)):
        rows = max(len(panel[0][0]) for panel in panels)
        fig = Figure(figsize=(8.0, 1.5 + 0.42 * rows), layout="constrained")
        FigureCanvasAgg(fig)
        grid = fig.subplots(1, len(panels), squeeze=False)[0]
        for axes, (data, title, label) in zip(grid, panels):
            _draw(axes, *data)
            axes.set_title(title)
            axes.set_xlabel("length of the text in tokens")
            axes.set_ylabel(label)
    return fig


def _draw(
    axes: Axes,
    rows: Sequence[str],
    columns: Sequence[str],
    found: dict[tuple[str, str], Share],
) -> None:
    """Cells from nothing to everything right, each with its counts; an empty cell was not asked."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    colors = LinearSegmentedColormap.from_list("share", [_NONE, _FULL])
    for (row, column), (right, of) in found.items():
        x, y, share = columns.index(column), rows.index(row), right / of
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=colors(share), lw=0))
        ink = _LIGHT if share > 0.7 else _DARK
        axes.text(x, y, f"{right}/{of}", ha="center", va="center", fontsize=8.5, color=ink)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), [clean_label(name, 8) for name in columns])
    axes.set_yticks(range(len(rows)), [clean_label(name, 12) for name in rows])
    axes.grid(visible=False)
    axes.tick_params(length=0)
