"""Results files to pictures: read, draw, publish.

`ds4-bench plot` and a sweep with --plot share this; what is drawn is `ds4bench.report.plot`'s.
"""

from __future__ import annotations

from pathlib import Path

import click

from ds4bench.records import outputs as places
from ds4bench.records import reference
from ds4bench.records.files import label_of, labels_of, read_rows
from ds4bench.report import curves as plot_data
from engine.errors import OptionError
from engine.tooling.results.publish import publish_bytes

KINDS = {".svg": "svg", ".png": "png"}


def draw(
    files: tuple[Path, ...],
    vs: str | None,
    outputs: tuple[Path, ...],
    *,
    dark: bool = False,
    title: str = "",
    force: bool = False,
    replace: bool = False,
) -> None:
    """Read, draw and publish; outputs are checked before anything is read.

    Parameters
    ----------
    files : tuple of Path
    vs : str or None
        Names of published curves.
    outputs : tuple of Path
        Empty: the first file's name with .svg.
    dark : bool
    title : str
    force : bool
        Set aside what is there.
    replace : bool
        Replace what is there.

    Raises
    ------
    EngineError
        If an input cannot be read or an output cannot be written.
    """
    names = reference.parse_names(vs)
    if not files and not names:
        raise OptionError("plot: expected results files or --vs, found neither")
    if not outputs:
        first = label_of(files[0]) if files else names[0]
        outputs = (Path(f"{first}.svg"),)
    for out in outputs:
        if out.suffix.lower() not in KINDS:
            raise OptionError(f"-o: expected a name ending in .svg or .png, found {str(out)!r}")
    places.check_new([("-o", out) for out in outputs], force=force or replace)
    labels = labels_of(files)
    sources = [plot_data.Source(label, read_rows(path)) for label, path in zip(labels, files)] + [
        plot_data.Source(reference.CURVES[name].label, reference.load(name), published=True)
        for name in names
    ]
    # Importing matplotlib takes most of a second; bad names and files must not pay it.
    from ds4bench.panel.chart import has_classes, panel_figure
    from ds4bench.report import plot

    theme = "dark" if dark else "light"
    if len(sources) == 1 and has_classes(sources[0].run.good):
        # Eight kinds of text times four modes would be a tangle of curves.
        fig = panel_figure(sources[0].run.good, (), theme, title)
    else:
        fig = plot.figure(sources, theme, title)
    if not replace:
        places.set_aside(outputs)
    for out in outputs:
        publish_bytes(out, plot.render(fig, KINDS[out.suffix.lower()], theme))
        click.echo(f"wrote {out}", err=True)
