"""`ds4-bench compare`: two results to a verdict and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ds4bench.commands.force import FORCE
from engine.errors import OptionError
from engine.options import CUDA_FIELDS
from engine.tooling.options.group import option, options
from engine.tooling.options.types import OneOf
from engine.tooling.program import Command

if TYPE_CHECKING:
    from ds4bench.compare.judge import Comparison

ALLOWABLE = (
    *("cpu", "cores", "gpu", "driver", "model", "prompt", "sampling", "server", "threads"),
    *("activations", "kv", "repack", "switches", "mtp_draft", "mtp_adaptive", "mtp_margin"),
    *("draft_max", "draft_confidence", "draft_adaptive"),
    # Which of several devices computed does not matter by itself: its name is compared.
    *("backend", *(name for name in CUDA_FIELDS if name != "device"), "residency_route"),
    *("modes", "sweep", "prefill_tokens", "gen_tokens"),
    # What `ds4-bench doctor` found; `ds4bench.compare.conditions` says where.
    *("firmware", "power_limit", "cpu_quota", "governor", "power_source", "huge_pages"),
    "outputs",  # other tokens than base's
    "validity",  # of `ab`: pairs that throttling, swap or other load disturbed
)
TOLERABLE = ("prefill", "decode", "decode_mtp", "steps")
LATENCIES = ("first_token", "itl_p99")  # judged only where they are named


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
        if equals and name not in (*TOLERABLE, *LATENCIES):
            known = ", ".join((*TOLERABLE, *LATENCIES))
            raise OptionError(f"--tolerance: expected {known}, found {name!r}")
        try:
            value = float(number.rstrip("%"))
        except ValueError:
            value = -1.0
        if not 0 < value < 100:
            raise OptionError(f"--tolerance: expected a percentage above 0, found {text!r}")
        for metric in [name] if equals else TOLERABLE:
            found[metric] = value / 100
    return found


tolerance_options = options(
    option(
        "--tolerance",
        "tolerances",
        section="Judging",
        multiple=True,
        metavar="[METRIC=]PERCENT",
        help="Loss that is still fine; METRIC is prefill, decode, decode_mtp or steps, or "
        "first_token or itl_p99 (time to the first token, 99th percentile between tokens), which "
        "are judged only where they are named. May be given again.",
        default_text="3, 2, 5, 2; twice that without pairs",
    ),
    option(
        "--allow",
        section="Judging",
        multiple=True,
        type=OneOf(ALLOWABLE),
        metavar="FIELD",
        help="Compare although this field differs. May be given again.",
    ),
)
# Of `compare` and `ab`.
common_options = options(
    tolerance_options,
    option("--strict", section="Judging", is_flag=True, help="Fail unless the verdict is 'fine'."),
    option("--all", "every_cell", section="Table", is_flag=True, help="Show every context."),
    option(
        "--format",
        "form",
        section="Table",
        type=OneOf(("table", "markdown", "json")),
        default="table",
        help="What goes to standard output.",
    ),
    option(
        "--markdown",
        section="Output",
        type=click.Path(path_type=Path),
        help="Write the comparison as Markdown too.",
    ),
    option(
        "--json",
        "json_out",
        section="Output",
        type=click.Path(path_type=Path),
        help="Write the comparison as JSON too.",
    ),
    option(
        "--junit",
        section="Output",
        type=click.Path(path_type=Path),
        help="Write it as JUnit XML too: a case for each judged effect.",
    ),
    FORCE,
)


def check_outputs(
    markdown: Path | None, json_out: Path | None, junit: Path | None, *, force: bool
) -> None:
    """Refuse output paths that cannot be written or are there, before anything is read.

    Raises
    ------
    OptionError
    """
    from ds4bench.records.outputs import check_new

    files = (("--markdown", markdown), ("--json", json_out), ("--junit", junit))
    check_new(files, force=force)


def show(
    result: Comparison,
    *,
    form: str,
    every_cell: bool,
    markdown: Path | None,
    json_out: Path | None,
    junit: Path | None = None,
) -> None:
    """Print a comparison and write the files that were asked for.

    Raises
    ------
    StoreError
        If a file cannot be written.
    """
    from ds4bench.compare import view
    from ds4bench.records.outputs import set_aside
    from engine.tooling.results.publish import publish_bytes

    set_aside((markdown, json_out, junit))
    if markdown is not None:
        publish_bytes(markdown, view.to_markdown(result, every_cell=every_cell).encode())
    if json_out is not None:
        publish_bytes(json_out, view.json_text(result).encode())
    if junit is not None:
        from ds4bench.report.exports import to_junit

        publish_bytes(junit, to_junit([result], []))
    if form == "json":
        click.echo(view.json_text(result), nl=False)
    elif form == "markdown":
        click.echo(view.to_markdown(result, every_cell=every_cell), nl=False)
    else:
        from rich.console import Console

        # A file or pipe has no width; 80 columns would fold the verdicts.
        width = None if sys.stdout.isatty() else 140
        view.print_rich(result, Console(width=width, highlight=False), every_cell=every_cell)


@click.command("compare", cls=Command)
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
    junit: Path | None,
    force: bool,
) -> int:
    """Judge whether HEAD is slower than BASE.

    Each is a journal, CSV or Parquet file, the folder of a run, or a folder of such folders (one
    per process). Runs that differ in machine, model, prompt or shape are refused. `ds4-bench ab`
    measures in turns and sees smaller effects.
    """
    limits = parse_tolerances(tolerances)
    check_outputs(markdown, json_out, junit, force=force)
    # scipy takes a good part of a second; bad options must not pay it.
    from ds4bench.ab import noise as calibrate
    from ds4bench.compare.judge import compare
    from ds4bench.compare.samples import load_arm

    ours, theirs = load_arm(base), load_arm(head)
    calibrate.refuse_below_floor(limits, ours, pairs=calibrate.smaller(ours, theirs))
    result = compare(ours, theirs, limits, allow, calibrate.sigmas(ours))
    files = {"markdown": markdown, "json_out": json_out, "junit": junit}
    show(result, form=form, every_cell=every_cell, **files)
    return result.exit_code(strict)
