"""`ds4-bench panel`: what a measured panel says of speculation, in words and as a figure."""

from __future__ import annotations

from pathlib import Path

import click

from ds4bench.commands.accept_options import ACCEPT
from engine.errors import OptionError
from engine.tooling.options.group import option
from engine.tooling.program import Command

KINDS = {".svg": "svg", ".png": "png"}


@click.command("panel", cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@ACCEPT
@option(
    "-o",
    "--out",
    "out",
    section="Results",
    type=click.Path(path_type=Path),
    help="SVG or PNG file of the figure.",
)
@option("--dark", section="Results", is_flag=True, help="Draw light on dark.")
@option("--title", section="Results", default="", help="Heading above the figure.")
def panel_command(
    run: Path,
    accept: str | None,
    accept_replay: Path | None,
    out: Path | None,
    dark: bool,
    title: str,
) -> None:
    """Explain the speeds of RUN, a sweep of several modes (best with --prompt-set panel).

    For each kind of text: rates, tokens per step and drafts kept by position; for each mode what a
    step costs and when it pays. Rates at another acceptance are computed from measured steps.
    """
    from ds4bench.panel import summary
    from ds4bench.panel.costs import step_costs
    from ds4bench.records.files import read_rows
    from engine.tooling.results.publish import check_output, publish_bytes

    if out is not None:
        if out.suffix.lower() not in KINDS:
            raise OptionError(f"--out: expected a name ending in .svg or .png, found {str(out)!r}")
        check_output(out, "--out", replace=True)
    if accept is not None:
        summary.parse_accept(accept)
    rows = read_rows(run).rows
    costs = step_costs(rows)
    if not costs and (accept is not None or accept_replay is not None):
        raise OptionError(
            f"--accept: expected {run} to hold plain rows and rows of a mode that drafts, found "
            "no step to compute from"
        )
    asked = summary.computed(costs, accept, accept_replay)
    click.echo(summary.summary(rows, asked))
    if out is not None:
        from ds4bench.panel.chart import panel_figure
        from engine.tooling.report import figures

        theme = "dark" if dark else "light"
        fig = panel_figure(rows, asked, theme, title)
        kind = KINDS[out.suffix.lower()]
        publish_bytes(out, figures.render(fig, kind, theme, program="ds4-bench"))
        click.echo(f"wrote {out}", err=True)
