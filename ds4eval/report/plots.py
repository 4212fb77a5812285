"""Scores, tokens and flips as figures, light or dark. Labels are untrusted text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ds4eval.compare.pairs import verdict_of
from ds4eval.compare.result import Line, RunComparison
from ds4eval.grading.grade import PASS
from ds4eval.questions.question import stable_hash
from ds4eval.records.record import Sample
from ds4eval.report.scores import ALL, RunScores
from ds4eval.stats.scores import wilson
from engine.tooling.report import figures
from engine.tooling.report.labels import clean_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.0  # inches at 100 dpi
_MARKERS = ("o", "s", "^", "D", "v", "P")
_MOST_GROUPS = 24  # more rows than this no figure shows; the tables do
_BINS = 8
_MOST_DOTS = 3000  # beyond, a page would weigh megabytes and show a bar
GUESSING = "guessing"
# An answer of the token figure: its group, the answer, whether it is right.
Token: TypeAlias = "tuple[str, Sample, bool]"


def _new(
    rows: int, columns: int, height: float, theme: str, **ratios: list[float]
) -> tuple[Figure, np.ndarray]:
    """Figure and axes with the theme's colours; call it inside the theme's context."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(fig)
    return fig, fig.subplots(rows, columns, squeeze=False, gridspec_kw=ratios or None)


def _percent_axis(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.0f} %")


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [clean_label(name, 26) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def group_names(runs: Sequence[RunScores]) -> list[str]:
    """Groups of all runs in order of first appearance, then 'all' when there are several."""
    names = list(dict.fromkeys(g.name for run in runs for g in run.groups))
    return names[:_MOST_GROUPS] + ([ALL] if len(names) > 1 else [])


def score_figure(runs: Sequence[RunScores], theme: str = "light") -> Figure:
    """Score by group with 95 per cent intervals; a tick marks what blind guessing scores."""
    import matplotlib

    names = group_names(runs)
    with matplotlib.rc_context(figures.style(theme)):
        height = 1.25 + len(names) * max(0.34, 0.2 * len(runs) + 0.14)
        fig, grid = _new(1, 1, height, theme)
        axes = grid[0, 0]
        for place, run in enumerate(runs):
            shift = (place - (len(runs) - 1) / 2) * min(0.24, 0.8 / len(runs))
            found = {g.name: g for g in [*run.groups, run.overall]}
            spots = [(i, found[name]) for i, name in enumerate(names) if name in found]
            mids = [score.interval.estimate for _, score in spots]
            spread = [
                [score.interval.estimate - score.interval.low for _, score in spots],
                [score.interval.high - score.interval.estimate for _, score in spots],
            ]
            axes.errorbar(
                mids,
                [i + shift for i, _ in spots],
                xerr=np.maximum(spread, 0.0),
                fmt=_MARKERS[place % len(_MARKERS)],
                color=ink_of(place, theme),
                capsize=2.5,
                lw=1.5,
                label=clean_label(run.arm.label),
                zorder=3,
            )
        chances: dict[str, float] = {}
        for run in runs:
            for score in [*run.groups, run.overall]:
                chances.setdefault(score.name, score.chance)
        axes.plot(
            [chances[name] for name in names],
            range(len(names)),
            ls="none",
            marker="|",
            ms=13,
            mew=1.6,
            color=figures.CONTEXT[theme],
            label=GUESSING,
            zorder=2,
        )
        _rows(axes, names)
        # From nothing to everything: a cut axis turns a point into a cliff.
        axes.set_xlim(-0.015, 1.015)
        axes.set_xticks(np.linspace(0, 1, 6))
        _percent_axis(axes)
        axes.set_title("Right answers, 95 % interval")
        if names[-1] == ALL and len(names) > 1:
            axes.axhline(len(names) - 1.5, color=axes.xaxis.label.get_color(), lw=0.6)
        _legend(fig, axes)
    return fig


def _legend(fig: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    # Runs first; matplotlib lists plain lines before error bars.
    order = sorted(range(len(labels)), key=lambda i: labels[i] == GUESSING)
    handles, labels = [handles[i] for i in order], [labels[i] for i in order]
    # A label that starts with an underscore would be dropped from the legend.
    names = [f" {name}" if name.startswith("_") else name for name in labels]
    longest = max(map(len, names))
    columns = max(1, min(len(names), 92 // (longest + 6)))
    fig.legend(handles, names, loc="outside lower left", ncols=columns)


def ink_of(place: int, theme: str) -> str:
    """Colour of the run at a place of the report; the same in every figure."""
    palette = figures.palette(theme)
    return palette[place % len(palette)]


def token_figure(run: RunScores, theme: str = "light", place: int = 0) -> Figure | None:
    """Generated tokens against correctness: every answer by group, and the share right by length.

    What is right has the run's colour, what is wrong is grey. None where no answer's tokens were
    counted.

    Parameters
    ----------
    place : int
        Of the run in the report.
    """
    import matplotlib

    names = [g.name for g in run.groups][:_MOST_GROUPS]
    samples = [
        (q.group(run.by) or "(none)", s, verdict_of(s, run.grader) == PASS)
        for q in run.arm.questions
        for s in q.samples
        if s.gen_tokens
    ]
    if not samples:
        return None
    with matplotlib.rc_context(figures.style(theme)):
        top = 1.0 + 0.42 * len(names)
        fig, grid = _new(2, 1, top + 2.35, theme, height_ratios=[top, 2.0])
        strip, share = grid[:, 0]
        share.sharex(strip)
        ink = ink_of(place, theme)
        _strip(strip, samples, names, ink, figures.CONTEXT[theme])
        _share(share, samples, ink)
        lengths = [s.gen_tokens or 0 for _, s, _ in samples]
        low, high = min(lengths), max(lengths)
        pad = 2.0 if low == high else (high / low) ** 0.03
        strip.set_xlim(low / pad, high * pad)
        _token_axis(share, low / pad, high * pad)
        _legend(fig, strip)
    return fig


def _strip(axes: Axes, samples: Sequence[Token], names: list[str], ink: str, grey: str) -> None:
    total = len(samples)
    if total > _MOST_DOTS:
        samples = sorted(samples, key=lambda item: _hash(item[1]))[:_MOST_DOTS]
    looks = (
        ("right", lambda s, ok: ok, "o", ink, -0.17),
        ("wrong", lambda s, ok: not ok and not s.truncated, "x", grey, 0.17),
        ("wrong, cut by the budget", lambda s, ok: not ok and s.truncated, "^", grey, 0.17),
    )
    place = {name: i for i, name in enumerate(names)}
    # Thousands of dots merge into a bar: paler and smaller then.
    crowd = min(1.0, max(0.25, (600 / len(samples)) ** 0.5))
    for label, wanted, marker, colour, shift in looks:
        chosen = [(g, s) for g, s, ok in samples if g in place and wanted(s, ok)]
        if not chosen:
            continue
        # Spread by a hash of the id: dots do not hide each other, and a redrawn figure is equal.
        spread = [(_hash(s) % 1000 / 1000 - 0.5) * 0.26 for _, s in chosen]
        axes.scatter(
            [s.gen_tokens or 0 for _, s in chosen],
            [place[g] + shift + d for (g, _), d in zip(chosen, spread)],
            s=16 * crowd + 4,
            marker=marker,
            color=colour,
            alpha=0.35 + 0.55 * crowd,
            linewidths=0.9 if marker == "x" else 0,
            label=label,
        )
    _rows(axes, names)
    axes.tick_params(labelbottom=False)
    axes.set_title(
        "Length of every reply"
        if total <= _MOST_DOTS
        else f"Length of {_MOST_DOTS} of {total} replies"
    )


def _hash(sample: Sample) -> int:
    return stable_hash(sample.source, sample.id, sample.repeat)


def _share(axes: Axes, samples: Sequence[Token], ink: str) -> None:
    lengths = np.array([s.gen_tokens for _, s, _ in samples], dtype=np.float64)
    right = np.array([ok for *_, ok in samples])
    order = np.argsort(lengths, kind="stable")
    # As many answers in each bin, and never fewer than five; equal lengths stay together.
    parts = np.array_split(order, max(1, min(_BINS, len(order) // 5)))
    mids, bounds = [], []
    for part in parts:
        if part.size:
            mids.append(float(np.exp(np.log(lengths[part]).mean())))
            bounds.append(wilson(int(right[part].sum()), part.size))
    estimates = [b.estimate for b in bounds]
    spread = [[b.estimate - b.low for b in bounds], [b.high - b.estimate for b in bounds]]
    axes.errorbar(mids, estimates, yerr=np.maximum(spread, 0.0), fmt="o-", color=ink, capsize=2.5,
                  lw=1.3)  # fmt: skip
    axes.set_ylim(-0.02, 1.05)
    axes.set_yticks([0, 0.5, 1])
    axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.0f} %")
    size = f"about {len(order) / len(parts):.0f} replies each"
    axes.set_title(f"Share right by length, {size}")


def _token_axis(axes: Axes, low: float, high: float) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log")
    steps = [m * 10**e for e in range(8) for m in (1, 2, 5)]
    ticks = [t for t in steps if low <= t <= high]
    if len(ticks) > 9:
        ticks = [t for t in ticks if str(t)[0] == "1"]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}")
    axes.set_xlabel("generated tokens")


def flip_figure(result: RunComparison, theme: str = "light", place: int = 1) -> Figure:
    """Paired flips by group beside the difference with its interval and the margin.

    Parameters
    ----------
    place : int
        Of B in the report; A is its first run.

    Raises
    ------
    ValueError
        If the runs are unlike: there is nothing to draw.
    """
    import matplotlib

    if not result.lines:
        raise ValueError("comparison: expected lines, found unlike runs")
    lines = [*result.lines[:-1][:_MOST_GROUPS], result.lines[-1]]
    if len(result.lines) == 2:
        lines = lines[-1:] if lines[0].n == lines[-1].n else lines
    names = [f"{clean_label(line.name, 18)} ({line.n})" for line in lines]
    with matplotlib.rc_context(figures.style(theme)):
        fig, grid = _new(1, 2, 1.35 + 0.36 * len(lines), theme, width_ratios=[1.0, 1.15])
        bars, forest = grid[0]
        rows = range(len(lines))
        losses = [line.a_only for line in lines]
        gains = [line.b_only for line in lines]
        bars.barh(rows, [-v for v in losses], color=ink_of(0, theme), height=0.55, label="A only")
        bars.barh(rows, gains, color=ink_of(place, theme), height=0.55, label="B only")
        reach = max(1, *losses, *gains)
        only = "only" if result.repeats == 1 else "more often"
        for i, (lost, won) in enumerate(zip(losses, gains)):
            bars.text(-lost - 0.03 * reach, i, lost, ha="right", va="center", fontsize=8.5)
            bars.text(won + 0.03 * reach, i, won, ha="left", va="center", fontsize=8.5)
        bars.set_xlim(-1.25 * reach, 1.25 * reach)
        bars.axvline(0, color=bars.title.get_color(), lw=0.8)
        bars.set_xticks([-0.6 * reach, 0.6 * reach], [f"A {only}", f"B {only}"])
        bars.tick_params(axis="x", length=0)
        bars.grid(axis="x", visible=False)
        _rows(bars, names)
        bars.spines["bottom"].set_visible(False)
        bars.set_title("Questions that one run alone got" if only == "only" else "Questions")
        _forest(forest, result, lines, theme)
    return fig


def _forest(axes: Axes, result: RunComparison, lines: Sequence[Line], theme: str) -> None:
    ink = axes.title.get_color()
    axes.axvspan(
        -100 * result.margin, 100 * result.margin, color=figures.CONTEXT[theme], alpha=0.18, lw=0
    )
    axes.axvline(0, color=ink, lw=0.8)
    mids = [100 * line.interval.estimate for line in lines]
    lows = [100 * line.interval.low for line in lines]
    highs = [100 * line.interval.high for line in lines]
    spread = [
        [max(0.0, m - low) for m, low in zip(mids, lows)],
        [max(0.0, high - m) for m, high in zip(mids, highs)],
    ]
    axes.errorbar(mids, range(len(lines)), xerr=spread, fmt="o", color=ink, capsize=2.5, lw=1.4)
    _rows(axes, [""] * len(lines))
    axes.tick_params(axis="y", length=0)
    widest = max(1.0, *map(abs, lows), *map(abs, highs), 100 * result.margin)
    axes.set_xlim(-1.06 * widest, 1.06 * widest)
    axes.set_title("B - A in points, 95 % interval")
    axes.set_xlabel(f"grey: within {100 * result.margin:g} points")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:+g}" if not math.isclose(x, 0) else "0")
