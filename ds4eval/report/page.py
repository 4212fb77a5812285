"""Runs to a report: scores, comparisons with the first run, figures, and one offline page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ds4eval.compare import view as compare_view
from ds4eval.compare.judge import compare
from ds4eval.compare.pairs import AnsweredRun
from ds4eval.compare.result import RunComparison
from ds4eval.report import depths, plots
from ds4eval.report import view as report_view
from ds4eval.report.budget_plot import budget_figure
from ds4eval.report.scores import RunScores, scores_of
from engine.tooling.report import figures
from engine.tooling.report.pages import drawing, render_page

_SHOWN_FLIPS = 200


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that tables, page and figures show.

    Attributes
    ----------
    runs : list of RunScores
    comparisons : list of RunComparison
        Every further run against the first.
    """

    runs: list[RunScores]
    comparisons: list[RunComparison]


def report_of(
    arms: Sequence[AnsweredRun],
    *,
    grader: str = "strict",
    by: str = "source",
    margin: float = 0.03,
    allow: Sequence[str] = (),
) -> Report:
    """Score every arm and compare each with the first.

    Runs that are unlike stand side by side all the same; their comparison names the field.

    Raises
    ------
    EngineError
        If allowed differences leave no common question.
    """
    runs = [scores_of(arm, grader, by) for arm in arms]
    comparisons = [
        compare(arms[0], arm, grader=grader, by=by, margin=margin, allow=allow) for arm in arms[1:]
    ]
    return Report(runs, comparisons)


def svg_files(report: Report) -> dict[str, bytes]:
    """Figures as SVG files in the light style, by file name."""
    drawn = {"scores.svg": plots.score_figure(report.runs)}
    budget = budget_figure(report.runs)
    if budget is not None:
        drawn["budget.svg"] = budget
    for place, run in enumerate(report.runs):
        figure = plots.token_figure(run, place=place)
        if figure is not None:
            drawn[f"tokens{place + 1 if place else ''}.svg"] = figure
        figure = depths.depth_figure(run)
        if figure is not None:
            drawn[f"depths{place + 1 if place else ''}.svg"] = figure
    for place, result in enumerate(report.comparisons):
        if result.lines:
            drawn[f"flips{place + 1 if place else ''}.svg"] = plots.flip_figure(
                result, place=place + 1
            )
    return {
        name: figures.render(figure, "svg", program="ds4-eval") for name, figure in drawn.items()
    }


def to_html(report: Report) -> str:
    """One page that needs nothing else: styles and figures inside, no script, no network.

    Holds ids, answers given and counts, never a question or a reply: it may be shown around.
    """
    labels = ", ".join(run.arm.label for run in report.runs)
    return render_page(
        "ds4eval.report",
        "report.html.j2",
        program="ds4-eval",
        title=labels,
        scores=drawing(plots.score_figure(report.runs), "s", f"Right answers of {labels}"),
        budget=drawing(budget_figure(report.runs), "b", f"Score over budget of {labels}"),
        runs=[
            {
                "label": run.arm.label,
                "summary": report_view.summary_of(run),
                "facts": run.facts,
                "tokens": drawing(
                    plots.token_figure(run, place=i),
                    f"t{i}",
                    f"Reply length and correctness of {run.arm.label}",
                ),
                "depths": drawing(
                    depths.depth_figure(run),
                    f"d{i}",
                    f"Right answers of {run.arm.label} by depth and length",
                ),
            }
            for i, run in enumerate(report.runs)
        ],
        comparisons=[_comparison_part(result, i) for i, result in enumerate(report.comparisons)],
    )


def _comparison_part(result: RunComparison, place: int) -> dict[str, Any]:
    """What the template shows of a comparison."""
    shown = f"{len(result.flips)} flips"
    if len(result.flips) > _SHOWN_FLIPS:
        shown += f", the first {_SHOWN_FLIPS} shown"
    summary = compare_view.summary_of(result, _SHOWN_FLIPS)
    return {
        "summary": summary,
        "a": result.a,
        "b": result.b,
        "flips": summary.details,
        "flips_title": shown,
        "chart": drawing(
            plots.flip_figure(result, place=place + 1) if result.lines else None,
            f"f{place}",
            f"Questions that {result.a} or {result.b} alone got right",
        ),
    }
