"""`ds4-bench compare`: two results to a verdict and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ds4bench import exits
from engine.errors import EngineError, OptionError

if TYPE_CHECKING:
    from ds4bench.compare.judge import Comparison

ALLOWABLE = (
    *("cpu", "cores", "gpu", "driver", "model", "prompt", "sampling", "threads"),
    *("activations", "kv", "mtp_draft", "mtp_adaptive", "mtp_margin"),
    *("backend", "launch", "residency", "residency_gib", "residency_route"),
    *("modes", "sweep", "prefill_tokens", "gen_tokens"),
)
TOLERABLE = ("prefill", "decode", "decode_mtp", "steps")


def parse_tolerances(given: Sequence[str]) -> dict[str, float]:
    """`--tolerance` values, [METRIC=]PERCENT, as fractions by metric.

    Raises
    ------
    OptionError
        If one is no percentage between 0 and 100, or names no metric.
    """
    found: dict[str, float] = {}
    for text in given:
        name, equals, number = text.rpartition("=")
        if equals and name not in TOLERABLE:
            raise OptionError(f"--tolerance: expected {', '.join(TOLERABLE)}, found {name!r}")
        try:
            value = float(number.rstrip("%"))
        except ValueError:
            value = -1.0
        if not 0 < value < 100:
            raise OptionError(f"--tolerance: expected a percentage above 0, found {text!r}")
        for metric in [name] if equals else TOLERABLE:
            found[metric] = value / 100
    return found


def common_options(command: Any) -> Any:
    """Options that `compare` and `ab` share."""
    for option in reversed(
        (
            click.option(
                "--tolerance",
                "tolerances",
                multiple=True,
                metavar="[METRIC=]PERCENT",
                help="Loss that is still fine; METRIC is prefill, decode, decode_mtp or steps.  "
                "[default: 3, 2, 5, 2; doubled without pairs]",
            ),
            click.option(
                "--allow",
                multiple=True,
                type=click.Choice(ALLOWABLE),
                help="Compare although this field differs; repeatable.",
            ),
            click.option("--strict", is_flag=True, help="Fail unless the verdict is 'fine'."),
            click.option("--all", "every_cell", is_flag=True, help="Show every frontier."),
            click.option(
                "--format",
                "form",
                type=click.Choice(("table", "markdown", "json")),
                default="table",
                show_default=True,
                help="What goes to standard output.",
            ),
            click.option(
                "--markdown", type=click.Path(path_type=Path), help="Also write Markdown."
            ),
            click.option("--json", "json_out", type=click.Path(path_type=Path), help="Also JSON."),
        )
    ):
        command = option(command)
    return command


def check_outputs(markdown: Path | None, json_out: Path | None) -> None:
    """Refuse output paths that cannot be written, before anything is read.

    Raises
    ------
    OptionError
    """
    from engine.tooling.results.publish import check_output

    for path, option in ((markdown, "--markdown"), (json_out, "--json")):
        if path is not None:
            check_output(path, option, replace=True)


def show(
    result: Comparison,
    *,
    form: str,
    every_cell: bool,
    markdown: Path | None,
    json_out: Path | None,
) -> None:
    """Print a comparison and write the files that were asked for.

    Raises
    ------
    StoreError
        If a file cannot be written.
    """
    from ds4bench.compare import view
    from engine.tooling.results.publish import publish_bytes

    if markdown is not None:
        publish_bytes(markdown, view.to_markdown(result, every_cell=every_cell).encode())
    if json_out is not None:
        publish_bytes(json_out, view.json_text(result).encode())
    if form == "json":
        click.echo(view.json_text(result), nl=False)
    elif form == "markdown":
        click.echo(view.to_markdown(result, every_cell=every_cell), nl=False)
    else:
        from rich.console import Console

        # A file or pipe has no width; 80 columns would fold the verdicts.
        width = None if sys.stdout.isatty() else 140
        view.print_rich(result, Console(width=width, highlight=False), every_cell=every_cell)


@click.command("compare", epilog=exits.epilog())
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("head", type=click.Path(path_type=Path))
@common_options
def compare_command(
    base: Path,
    head: Path,
    tolerances: tuple[str, ...],
    allow: tuple[str, ...],
    strict: bool,
    every_cell: bool,
    form: str,
    markdown: Path | None,
    json_out: Path | None,
) -> None:
    """Judge whether HEAD is slower than BASE.

    Each is a journal, CSV or Parquet file, the folder of a run, or a folder of such folders (one
    per process). Runs that differ in machine, model, prompt or shape are refused. `ds4-bench ab`
    measures in turns and sees smaller effects.
    """
    try:
        limits = parse_tolerances(tolerances)
        check_outputs(markdown, json_out)
        # scipy takes a good part of a second; bad options must not pay it.
        from ds4bench.ab import noise as calibrate
        from ds4bench.compare.judge import compare
        from ds4bench.compare.samples import load_arm

        ours, theirs = load_arm(base), load_arm(head)
        calibrate.refuse_below_floor(limits, ours, pairs=calibrate.smaller(ours, theirs))
        result = compare(ours, theirs, limits, allow)
        show(result, form=form, every_cell=every_cell, markdown=markdown, json_out=json_out)
    except EngineError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    sys.exit(result.exit_code(strict))
