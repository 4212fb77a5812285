"""Score over budget as a figure: a line per run, and above it what unfinished replies could add."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ds4eval.report.budget import short
from ds4eval.report.plots import WIDTH, ink_of
from ds4eval.report.scores import RunScores
from engine.tooling.report import figures
from engine.tooling.report.labels import clean_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def budget_figure(runs: Sequence[RunScores], theme: str = "light") -> Figure | None:
    """Share right and over by each budget; a band up to that with every unfinished reply right.

    None where no run has replies that a budget could have cut.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [(place, run) for place, run in enumerate(runs) if run.budget.notable]
    if not shown:
        return None
    with matplotlib.rc_context(figures.style(theme)):
        fig = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        FigureCanvasAgg(fig)
        axes = fig.subplots()
        for place, run in shown:
            ink = ink_of(place, theme)
            budgets = [point.tokens for point in run.budget.points]
            shares = [point.interval.estimate for point in run.budget.points]
            most = [point.most for point in run.budget.points]
            if len(shown) == 1:  # bands of several runs would hide one another
                axes.fill_between(budgets, shares, most, color=ink, alpha=0.10, lw=0)
            axes.plot(budgets, most, color=ink, lw=0.8, ls=":")
            axes.plot(budgets, shares, color=ink, marker="o", lw=1.6, label=_named(run))
        _axes(axes, sorted({p.tokens for _, run in shown for p in run.budget.points}))
        fig.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=1)
    return fig


def _named(run: RunScores) -> str:
    label = clean_label(run.arm.label)
    return f" {label}" if label.startswith("_") else label


def _axes(axes: Axes, budgets: Sequence[int]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log")
    # Doublings lie far enough apart for their names; what lies closer goes without one.
    ticks = [budgets[0]]
    for tokens in budgets[1:]:
        if tokens >= 1.45 * ticks[-1]:
            ticks.append(tokens)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda x, _: short(round(x)))
    axes.set_xlabel("budget in tokens")
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.0f} %")
    axes.set_title("Score over budget; dotted: had every unfinished reply been right")
