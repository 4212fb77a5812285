"""`ds4-bench plot`: results files to SVG or PNG."""

from __future__ import annotations

from pathlib import Path

import click

from ds4bench.commands.force import FORCE
from engine.tooling.options.group import option
from engine.tooling.program import Command


@click.command("plot", cls=Command)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@option("--vs", metavar="NAME,...", help="Overlay published curves, e.g. gb10,m4_max.")
@option("--list", "list_curves", is_flag=True, help="List the published curves and end.")
@option(
    "-o",
    "--figure",
    "outputs",
    section="Output",
    multiple=True,
    type=click.Path(path_type=Path),
    help="SVG or PNG file, told by its ending. May be given again.",
    default_text="the first file's name with .svg",
)
@option(
    # Elsewhere --out is a folder; scripts that know it as this file go on to work.
    "--out",
    "more_outputs",
    multiple=True,
    type=click.Path(path_type=Path),
    hidden=True,
    help="As -o.",
)
@FORCE
@option("--dark", is_flag=True, help="Draw light on dark.")
@option("--title", default="", help="Heading above the panels.")
def plot_command(
    files: tuple[Path, ...],
    vs: str | None,
    list_curves: bool,
    outputs: tuple[Path, ...],
    more_outputs: tuple[Path, ...],
    force: bool,
    dark: bool,
    title: str,
) -> None:
    """Draw results FILES (journal, CSV, Parquet, or the folder of a run)."""
    # Their imports take a third of a second that --help need not wait for.
    from ds4bench.records import reference
    from ds4bench.report.draw import draw

    if list_curves:
        for curve in reference.CURVES.values():
            click.echo(f"{curve.name:14} {curve.label:16} {curve.source} ({curve.date})")
        return
    draw(files, vs, outputs + more_outputs, dark=dark, title=title, force=force)
