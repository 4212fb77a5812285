"""`ds4-eval report`: scores of runs on the terminal, and as a folder with a page and figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ds4eval.commands.compare import console, fail, shared_options
from engine.errors import EngineError, OptionError
from engine.tooling.exits import say

if TYPE_CHECKING:
    from ds4eval.report.page import Report

BELOW, INCOMPLETE = 1, 5
EPILOG = (
    "Exit status: 0 done; 1 a run is below --fail-under; 2 bad option; 3 no readable run; "
    "5 a run is unfinished, or the report cannot be written."
)


@click.command("report", epilog=EPILOG)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@shared_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write report.html (works offline), summary.md, report.json and figures.",
)
@click.option(
    "--fail-under",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="Exit 1 when a run scores less.",
)
def report_command(
    runs: tuple[Path, ...],
    grader: str,
    by: str,
    margin: float,
    allow: tuple[str, ...],
    form: str,
    out: Path | None,
    fail_under: float | None,
) -> None:
    """Scores of RUNS (run folders or their samples.jsonl), each compared with the first.

    Nothing printed or written holds a question or a reply.
    """
    try:
        # scipy takes a good part of a second; bad options must not pay it.
        from ds4eval.compare.pairs import load_arms
        from ds4eval.report.page import report_of

        report = report_of(load_arms(runs), grader=grader, by=by, margin=margin / 100, allow=allow)
    except EngineError as error:
        fail(error)
    try:
        if out is not None:
            write(report, out)
    except EngineError as error:
        say(f"ds4-eval: {error}")
        sys.exit(error.exit_code)
    show(report, form)
    scores = [100 * run.overall.interval.estimate for run in report.runs]
    if fail_under is not None and min(scores) < fail_under:
        say(f"--fail-under: expected at least {fail_under:g} %, found {min(scores):.1f} %")
        sys.exit(BELOW)
    sys.exit(INCOMPLETE if any(run.arm.unfinished for run in report.runs) else 0)


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
