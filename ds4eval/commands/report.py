"""`ds4-eval report`: prints the scores of runs, and writes them as a page with figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ds4eval.commands.compare import console, readable_arms, shared_options
from engine.errors import OptionError
from engine.tooling import exits
from engine.tooling.exits import say
from engine.tooling.options.group import option
from engine.tooling.options.types import Number
from engine.tooling.program import Command

if TYPE_CHECKING:
    from ds4eval.report.page import Report


@click.command("report", cls=Command)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@shared_options
@option(
    "--out",
    section="Output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write report.html (works offline), summary.md, report.json and figures.",
)
@option(
    "--fail-under",
    section="Judging",
    type=Number(0, 100),
    metavar="PERCENT",
    help="Exit with 6 when a run scores less.",
)
def report_command(
    runs: tuple[Path, ...],
    grader: str | None,
    by: str,
    margin: float,
    allow: tuple[str, ...],
    form: str,
    out: Path | None,
    fail_under: float | None,
) -> int:
    """Scores of RUNS (run folders or their samples.jsonl), each compared with the first.

    Nothing printed or written holds a question or a reply.
    """
    arms = readable_arms(runs)
    from ds4eval.report.page import report_of

    grader = grader or arms[0].run.headline
    report = report_of(arms, grader=grader, by=by, margin=margin / 100, allow=allow)
    if out is not None:
        write(report, out)
    show(report, form)
    scores = [100 * run.overall.interval.estimate for run in report.runs]
    if fail_under is not None and min(scores) < fail_under:
        say(f"--fail-under: expected at least {fail_under:g} %, found {min(scores):.1f} %")
        return exits.REGRESSION
    return exits.PARTIAL if any(run.arm.unfinished for run in report.runs) else exits.OK


def show(report: Report, form: str) -> None:
    """Print a report to standard output."""
    from ds4eval.report import view

    if form == "json":
        found = view.report_json(report.runs, report.comparisons)
        click.echo(json.dumps(found, indent=1, allow_nan=False))
    elif form == "markdown":
        click.echo(view.to_summary(report.runs, report.comparisons), nl=False)
    else:
        view.print_rich(report.runs, report.comparisons, console())


def write(report: Report, folder: Path) -> None:
    """Publish page, summary, JSON and figures, each whole or not at all.

    Raises
    ------
    OptionError
        If the folder cannot be made.
    StoreError
        If a file cannot be written.
    """
    from ds4eval.report import page as pages
    from ds4eval.report import view
    from engine.tooling.results.publish import publish_bytes

    found = view.report_json(report.runs, report.comparisons)
    contents = {
        "report.html": pages.to_html(report).encode(),
        "summary.md": view.to_summary(report.runs, report.comparisons).encode(),
        "report.json": json.dumps(found, indent=1, allow_nan=False).encode() + b"\n",
        **pages.svg_files(report),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"--out: expected a folder that can be made, found {error.strerror}: {str(folder)!r}"
        ) from error
    for name, content in contents.items():
        publish_bytes(folder / name, content)
    say(f"wrote {folder}/: {', '.join(contents)}")
