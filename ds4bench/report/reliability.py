"""How honest a drafter's confidences are: confidence against acceptance, as a table and a figure.

A row of results counts, for each depth of a draft and each tenth of confidence, the drafts that
were judged and those that were kept (`SpeedRow.reliability`). Nothing here knows a drafter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ds4bench.records.derived import brier, ece
from ds4bench.records.rows import SweepResult, mode_rank
from ds4bench.report.curves import Source
from engine.spec.protocol import N_BIN, PER_BIN
from engine.tooling.report import figures
from engine.tooling.report.labels import clean_label
from engine.tooling.report.tables import Column, Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = (
    Column("Mode", text=True),
    Column("Draft"),
    Column("Judged"),
    Column("Confidence", "%"),
    Column("Kept", "%"),
    Column("ECE"),
    Column("Brier"),
)
CAPTION = (
    "Drafts by their place in a block, all contexts and runs together: the mean confidence of "
    "those that were judged, and the share that was kept. ECE: the mean distance of the two, in "
    "tenths of confidence. Brier: the mean squared difference of a confidence and the outcome."
)
_Z = 1.96  # of a 95 % interval
_MOST_PANELS = 6
_WIDTH, _ROW_HEIGHT = 8.0, 3.4  # inches at 100 dpi


@dataclass(frozen=True, slots=True)
class Calibration:
    """What became of the drafts of one mode.

    Parameters
    ----------
    mode : str
    counts : float64 array of shape (depths, N_BIN, 4)
        Drafts judged, drafts kept, sum of confidences, sum of squared differences.
    """

    mode: str
    counts: np.ndarray

    def at(self, depth: int | None) -> np.ndarray:
        """Counts of a depth, or of all together, (N_BIN, 4)."""
        found: np.ndarray = self.counts.sum(axis=0) if depth is None else self.counts[depth]
        return found

    def ece(self, depth: int | None = None) -> float | None:
        """Expected calibration error of a depth, or over the bins of all depths."""
        counts = self.counts if depth is None else self.counts[depth]
        return ece(counts.reshape(-1).tolist())

    def brier(self, depth: int | None = None) -> float | None:
        """Brier score of a depth, or of all."""
        return brier(self.at(depth).reshape(-1).tolist())


def calibrations(run: SweepResult) -> list[Calibration]:
    """One for each mode whose drafter says how sure it is, over all good rows."""
    found: dict[str, np.ndarray] = {}
    for row in run.good:
        if not row.reliability:
            continue
        counts = np.array(row.reliability, np.float64).reshape(-1, N_BIN, PER_BIN)
        held = found.get(row.series, np.zeros((0, N_BIN, PER_BIN)))
        total = np.zeros((max(len(held), len(counts)), N_BIN, PER_BIN))
        total[: len(held)] += held
        total[: len(counts)] += counts
        found[row.series] = total
    ordered = sorted(found, key=lambda mode: (mode_rank(mode), mode))
    return [Calibration(mode, found[mode]) for mode in ordered if found[mode][..., 0].any()]


def reliability_table(run: SweepResult) -> Table | None:
    """A row for each mode and place in a block, then one of all places; None without drafts."""
    rows = []
    for place, one in enumerate(calibrations(run)):
        for depth in (*range(len(one.counts)), None):
            judged, kept, told, _ = one.at(depth).sum(axis=0)
            if not judged:
                continue
            cells = (
                one.mode,
                "all" if depth is None else str(depth + 1),
                f"{judged:.0f}",
                f"{100 * told / judged:.1f}",
                f"{100 * kept / judged:.1f}",
                f"{one.ece(depth):.3f}",
                f"{one.brier(depth):.3f}",
            )
            rows.append(Row(cells, rule=bool(place) and depth == 0, total=depth is None))
    return Table(COLUMNS, rows, caption=CAPTION) if rows else None


def interval(kept: float, judged: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (1927), which stays within 0 and 1."""
    share, weight = kept / judged, _Z * _Z / judged
    middle = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight * weight / 4) / (1 + weight)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def reliability_figure(sources: Sequence[Source], theme: str = "light") -> Figure | None:
    """A panel for each run and mode that has confidences, 800 px wide; None where none has.

    A point is a tenth of confidence, as large as it has drafts, with an interval of 95 %; on the
    dotted line confidence and acceptance are the same.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(source.label, one) for source in sources for one in calibrations(source.run)]
    panels = panels[:_MOST_PANELS]
    if not panels:
        return None
    with matplotlib.rc_context(figures.style(theme)):
        n_rows = math.ceil(len(panels) / 2)
        fig = Figure(figsize=(_WIDTH, _ROW_HEIGHT * n_rows), layout="constrained")
        FigureCanvasAgg(fig)
        grid = fig.subplots(n_rows, 2, squeeze=False)
        for axes, (label, one) in zip(grid.flat, panels):
            name = f"{label}: {one.mode}" if len(sources) > 1 else one.mode
            _panel(axes, clean_label(name, 40), one, theme)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_axis_off()
    return fig


def _panel(axes: Axes, name: str, one: Calibration, theme: str) -> None:
    colour = figures.palette(theme)[0]
    bins = one.at(None)
    bins = bins[bins[:, 0] > 0]
    judged, kept, told = bins[:, 0], bins[:, 1], bins[:, 2]
    x, y = 100 * told / judged, 100 * kept / judged
    bounds = 100 * np.array([interval(k, n) for k, n in zip(kept, judged)])
    axes.plot([0, 100], [0, 100], color=figures.CONTEXT[theme], lw=1.0, ls=(0, (1.5, 1.5)))
    axes.vlines(x, bounds[:, 0], bounds[:, 1], color=colour, lw=1)
    axes.plot(x, y, color=colour, lw=1.2)
    axes.scatter(x, y, s=12 + 90 * judged / judged.max(), color=colour, zorder=3)
    axes.set_title(f"{name}\nECE {one.ece():.3f}, Brier {one.brier():.3f}")
    axes.set_xlabel("confidence (%)")
    axes.set_ylabel("drafts kept (%)")
    axes.set_xlim(-3, 103)
    axes.set_ylim(-3, 103)
