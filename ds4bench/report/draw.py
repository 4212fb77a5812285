"""Results files to pictures: read, draw, publish.

`ds4-bench plot` and a sweep with --plot share this; what is drawn is `ds4bench.report.plot`'s.
"""

from __future__ import annotations

from pathlib import Path

import click

from ds4bench.records import reference
from ds4bench.records.files import label_of, read_rows
from ds4bench.report import curves as plot_data
from engine.errors import OptionError
from engine.tooling.report.labels import unique_labels
from engine.tooling.results.publish import check_output, publish_bytes

KINDS = {".svg": "svg", ".png": "png"}


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
    names = reference.parse_names(vs)
    if not files and not names:
        raise OptionError("plot: expected results files or --vs, found neither")
    if not outputs:
        first = label_of(files[0]) if files else names[0]
        outputs = (Path(f"{first}.svg"),)
    for out in outputs:
        if out.suffix.lower() not in KINDS:
            raise OptionError(f"--out: expected a name ending in .svg or .png, found {str(out)!r}")
        check_output(out, "--out", replace=True)
    labels = unique_labels([label_of(f) for f in files])
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
    for out in outputs:
        publish_bytes(out, plot.render(fig, KINDS[out.suffix.lower()], theme))
        click.echo(f"wrote {out}", err=True)
