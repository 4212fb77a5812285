"""`ds4-bench report`: results to a folder with a page, a summary and exports for CI."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ds4bench.commands.compare import parse_tolerances, tolerance_options
from ds4bench.commands.force import FORCE
from engine.errors import OptionError
from engine.tooling import exits
from engine.tooling.options.group import option
from engine.tooling.program import Command

FILES = ("report.html", "summary.md", "junit.xml", "benchmark.json", "rows.csv")


@click.command("report", cls=Command)
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@option(
    "--base",
    section="Judging",
    type=click.Path(path_type=Path),
    help="Judge every run against this one.",
)
@tolerance_options
@option(
    "--gate",
    section="Judging",
    is_flag=True,
    help="End with the comparison's exit status; fewer than 5 samples a side are no pass.",
)
@option(
    "--out",
    section="Output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the report.",
    default_text="reports/RUN",
)
@FORCE
@option(
    "--vs", section="Output", metavar="NAME,...", help="Overlay published curves, e.g. gb10,m4_max."
)
@option(
    "--history",
    section="Output",
    type=click.Path(path_type=Path),
    metavar="DB",
    help="Add the runs to this file and show how speed changed.",
)
def report_command(
    runs: tuple[Path, ...],
    base: Path | None,
    vs: str | None,
    out: Path | None,
    history: Path | None,
    tolerances: tuple[str, ...],
    allow: tuple[str, ...],
    gate: bool,
    force: bool,
) -> int:
    """Write a report of RUNS (journal, CSV, Parquet, or the folder of a run).

    The folder gets report.html (one page, works offline), summary.md (for a CI job's page),
    junit.xml, benchmark.json (customBiggerIsBetter) and rows.csv.
    """
    if not runs:
        raise OptionError("report: expected results files, found none")
    if gate and base is None:
        raise OptionError("--gate: expected --base, found none")
    limits = parse_tolerances(tolerances)
    if out is not None:
        check_folder_of_report(out, force)
    code = write(runs, base, vs, out, history, limits, allow, force=force)
    return code if gate else exits.OK


def write(
    runs: tuple[Path, ...],
    base: Path | None,
    vs: str | None,
    out: Path | None,
    history: Path | None,
    tolerances: dict[str, float],
    allow: tuple[str, ...],
    *,
    force: bool = False,
) -> int:
    """Read, judge and publish; returns the worst exit status of the comparisons.

    Raises
    ------
    EngineError
        If an input cannot be read or an output cannot be written.
    """
    from ds4bench.ab import noise as calibrate
    from ds4bench.compare import history as past
    from ds4bench.compare.judge import compare
    from ds4bench.compare.samples import load_arm
    from ds4bench.records import reference
    from ds4bench.records.files import labels_of, read_rows
    from ds4bench.records.outputs import set_aside
    from ds4bench.report import curves as plot_data
    from ds4bench.report import exports as junit
    from ds4bench.report import page as report
    from engine.tooling.results.publish import publish_bytes

    names = reference.parse_names(vs)
    labels = labels_of(runs if base is None else (*runs, base))
    sources = [plot_data.Source(label, read_rows(path)) for label, path in zip(labels, runs)]
    published = [
        plot_data.Source(reference.CURVES[name].label, reference.load(name), published=True)
        for name in names
    ]
    comparisons, drawn = [], []
    if base is not None:
        ours = load_arm(base)
        if base not in runs:
            name = labels[-1]
            one = len(ours.runs) == 1
            drawn = [plot_data.Source(f"base {name}" if one else f"base {name} {i}", run)
                     for i, run in enumerate(ours.runs, 1)]  # fmt: skip
        for label, path in zip(labels, runs):
            theirs = load_arm(path, label)
            pairs = calibrate.smaller(ours, theirs)
            calibrate.refuse_below_floor(tolerances, ours, pairs=pairs)
            known = calibrate.sigmas(ours)
            comparisons.append(compare(ours, theirs, tolerances, allow, known))
    series = []
    if history is not None:
        with past.open_history(history) as database:
            for source in sources:
                past.add(database, source.run)
            series = past.series(database, past.setup_of(sources[0].run))
    name = report.run_id(sources[0].run)
    page = report.Report(name, sources, published, comparisons, series, drawn)
    folder = out or Path("reports") / name
    check_folder_of_report(folder, force)
    contents = (
        report.to_html(page).encode(),
        report.to_summary(page).encode(),
        junit.to_junit(comparisons, sources),
        junit.benchmark_json(sources),
        junit.rows_csv(sources),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"--out: expected a folder that can be made, found {error.strerror}: {str(folder)!r}"
        ) from error
    set_aside(folder / file for file in FILES)
    for file, content in zip(FILES, contents):
        publish_bytes(folder / file, content)
    click.echo(f"wrote {folder}/: {', '.join(FILES)}", err=True)
    return worst([c.exit_code(gate=True) for c in comparisons])


def check_folder_of_report(folder: Path, force: bool) -> None:
    """Refuse a folder that holds a report already, and a place that takes none.

    Raises
    ------
    OptionError
    """
    from ds4bench.records.outputs import check_new

    if folder.is_dir():
        check_new([("--out", folder / file) for file in FILES], force=force)


def worst(codes: Sequence[int]) -> int:
    """The status that says most: another run's lack of data does not hide a regression."""
    order = (
        *(exits.OK, exits.INCONCLUSIVE, exits.INCOMPARABLE),
        *(exits.OUTPUTS_DIFFER, exits.REGRESSION),
    )
    return max(codes, key=order.index, default=exits.OK)
