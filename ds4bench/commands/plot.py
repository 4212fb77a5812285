"""`ds4-bench plot`: results files to SVG or PNG."""

from __future__ import annotations

from pathlib import Path

import click

from engine.errors import OptionError
from engine.tooling.options.group import option
from engine.tooling.program import Command

KINDS = {".svg": "svg", ".png": "png"}


@click.command("plot", cls=Command)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@option("--vs", metavar="NAME,...", help="Overlay published curves, e.g. gb10,m4_max.")
@option("--list", "list_curves", is_flag=True, help="List the published curves and end.")
@option(
    "-o",
    "--out",
    "outputs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="SVG or PNG file, told by its ending. May be given again.",
    default_text="the first file's name with .svg",
)
@option("--dark", is_flag=True, help="Draw light on dark.")
@option("--title", default="", help="Heading above the panels.")
def plot_command(
    files: tuple[Path, ...],
    vs: str | None,
    list_curves: bool,
    outputs: tuple[Path, ...],
    dark: bool,
    title: str,
) -> None:
    """Draw results FILES (journal, CSV, Parquet, or the folder of a run)."""
    from ds4bench.records import reference

    if list_curves:
        for curve in reference.CURVES.values():
            click.echo(f"{curve.name:14} {curve.label:16} {curve.source} ({curve.date})")
        return
    draw(files, vs, outputs, dark=dark, title=title)


def draw(
    files: tuple[Path, ...],
    vs: str | None,
    outputs: tuple[Path, ...],
    *,
    dark: bool,
    title: str,
) -> None:
    """Read, draw and publish; outputs are checked before anything is read.

    Raises
    ------
    EngineError
        If an input cannot be read or an output cannot be written.
    """
    from ds4bench.records import reference
    from ds4bench.records.rows import read_rows
    from ds4bench.report import curves as plot_data
    from engine.tooling.results.publish import check_output, publish_bytes

    names = reference.parse_names(vs)
    if not files and not names:
        raise OptionError("plot: expected results files or --vs, found neither")
    if not outputs:
        first = plot_data.label_of(files[0]) if files else names[0]
        outputs = (Path(f"{first}.svg"),)
    for out in outputs:
        if out.suffix.lower() not in KINDS:
            raise OptionError(f"--out: expected a name ending in .svg or .png, found {str(out)!r}")
        check_output(out, "--out", replace=True)
    labels = plot_data.unique_labels([plot_data.label_of(f) for f in files])
    sources = [plot_data.Source(label, read_rows(path)) for label, path in zip(labels, files)] + [
        plot_data.Source(reference.CURVES[name].label, reference.load(name), published=True)
        for name in names
    ]
    # Importing matplotlib takes most of a second; bad names and files must not pay it.
    from ds4bench.report import plot

    theme = "dark" if dark else "light"
    fig = plot.figure(sources, theme, title)
    for out in outputs:
        publish_bytes(out, plot.render(fig, KINDS[out.suffix.lower()], theme))
        click.echo(f"wrote {out}", err=True)
