"""Runs to a report: scores, comparisons with the first run, figures, and one offline page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ds4eval.compare import view as compare_view
from ds4eval.compare.judge import compare
from ds4eval.compare.pairs import Arm
from ds4eval.compare.result import Comparison
from ds4eval.report import plots
from ds4eval.report import view as report_view
from ds4eval.report.scores import RunScores, scores_of
from engine.tooling.report import figures

_SHOWN_FLIPS = 200


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that tables, page and figures show.

    Attributes
    ----------
    runs : list of RunScores
    comparisons : list of Comparison
        Every further run against the first.
    """

    runs: list[RunScores]
    comparisons: list[Comparison]


def report_of(
    arms: Sequence[Arm],
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
    for place, run in enumerate(report.runs):
        figure = plots.token_figure(run)
        if figure is not None:
            drawn[f"tokens{place + 1 if place else ''}.svg"] = figure
    for place, result in enumerate(report.comparisons):
        if result.lines:
            drawn[f"flips{place + 1 if place else ''}.svg"] = plots.flip_figure(result)
    return {
        name: figures.render(figure, "svg", program="ds4-eval") for name, figure in drawn.items()
    }


def to_html(report: Report) -> str:
    """One page that needs nothing else: styles and figures inside, no script, no network.

    Holds ids, answers given and counts, never a question or a reply: it may be shown around.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    templates = Environment(
        loader=PackageLoader("ds4eval.report", "style"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    labels = ", ".join(run.arm.label for run in report.runs)

    def drawing(figure: Any, prefix: str, label: str) -> Markup | None:
        # The markup is our own: `inline` has escaped every label inside it.
        return None if figure is None else Markup(figures.inline(figure, prefix, label))

    return templates.get_template("report.html.j2").render(
        title=labels,
        themes={theme: figures.theme_variables(theme) for theme in figures.THEMES},
        scores=drawing(plots.score_figure(report.runs), "s", f"Right answers of {labels}"),
        runs=[
            {
                "label": run.arm.label,
                "headline": report_view.headline(run),
                "headings": report_view.headings(run),
                "rows": report_view.rows_of(run),
                "remarks": report_view.remarks(run),
                "facts": run.facts,
                "complete": not run.arm.unfinished,
                "tokens": drawing(
                    plots.token_figure(run),
                    f"t{i}",
                    f"Reply length and correctness of {run.arm.label}",
                ),
            }
            for i, run in enumerate(report.runs)
        ],
        comparisons=[
            {
                "headline": compare_view.headline(result),
                "kind": str(result.verdict).replace(" ", "-") if result.verdict else "none",
                "unlike": [str(item) for item in result.unlike],
                "a": result.a,
                "b": result.b,
                "headings": compare_view.HEADINGS,
                "rows": [compare_view.cells_of(line, result.margin) for line in result.lines],
                "remarks": compare_view.remarks(result),
                "flip_headings": compare_view.FLIP_HEADINGS,
                "flips": [compare_view.flip_cells(flip) for flip in result.flips[:_SHOWN_FLIPS]],
                "n_flips": len(result.flips),
                "chart": drawing(
                    plots.flip_figure(result) if result.lines else None,
                    f"f{i}",
                    f"Questions that {result.a} or {result.b} alone got right",
                ),
            }
            for i, result in enumerate(report.comparisons)
        ],
    )
