"""`ds4-eval compare`: judges run B against run A and ends with a status that scripts can use."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ds4eval.commands.data_options import readable
from engine.tooling.options.group import option, options
from engine.tooling.options.types import Number, OneOf, Whole
from engine.tooling.program import Command

if TYPE_CHECKING:
    from rich.console import Console

    from ds4eval.compare.pairs import AnsweredRun
    from ds4eval.compare.result import RunComparison

# The same as `grading.grade.GRADERS` and `compare.pairs.FIELDS`, as a test checks: --help must not
# pay for what those modules import.
GRADERS = ("strict", "lenient", "ds4-classic")
ALLOWABLE = (
    *("questions", "question", "permutation", "repeats", "prompt_version"),
    *("sampling", "think", "encoding", "budget", "grader"),
)
FORMATS = ("table", "markdown", "json")
WIDE = 150  # a file or pipe has no width; 80 columns would fold the verdicts


def readable_arms(paths: Sequence[Path]) -> list[AnsweredRun]:
    """The runs to compare or report on.

    Raises
    ------
    UnreadableRun
        If one is none that can be read.
    """
    # scipy takes a good part of a second; bad options must not pay it.
    from ds4eval.compare.pairs import load_arms

    return readable(lambda: load_arms(paths))


# Of `compare` and `report`.
shared_options = options(
    option(
        "--grader",
        section="Judging",
        type=OneOf(GRADERS),
        help="Whose grades are counted.",
        default_text="the headline of the first run",
    ),
    option(
        "--by",
        section="Judging",
        default="source",
        metavar="FIELD",
        help="Show a line per source, domain, kind, or stratum such as difficulty.",
    ),
    option(
        "--margin",
        section="Judging",
        type=Number(0, 50, above=True),
        default=3.0,
        metavar="POINTS",
        help="Runs this close count as equivalent.",
    ),
    option(
        "--allow",
        section="Judging",
        multiple=True,
        type=OneOf(ALLOWABLE),
        metavar="FIELD",
        help="Compare although this field differs. May be given again.",
    ),
    option(
        "--format",
        "form",
        section="Output",
        type=OneOf(FORMATS),
        default="table",
        help="What goes to standard output.",
    ),
)


def show(result: RunComparison, form: str) -> None:
    """Print a comparison to standard output."""
    from ds4eval.compare import view

    if form == "json":
        click.echo(view.json_text(result), nl=False)
    elif form == "markdown":
        click.echo(view.to_markdown(result), nl=False)
    else:
        view.print_rich(result, console())


def console() -> Console:
    """A terminal as wide as it is, and anything else wide enough."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False, soft_wrap=False)


@click.command("compare", cls=Command)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@shared_options
@option(
    "--max-regression",
    section="Judging",
    type=Number(0, 100),
    metavar="POINTS",
    help="Exit with 6 when B is significantly worse and lost more than this.",
)
@option(
    "--strict",
    section="Judging",
    is_flag=True,
    help="Exit with 6 or 7 unless B is shown not to be worse.",
)
@option(
    "--seed", section="Judging", type=Whole(0, 2**63 - 1), default=0, help="Seed of the bootstrap."
)
def compare_command(
    a: Path,
    b: Path,
    grader: str | None,
    by: str,
    margin: float,
    allow: tuple[str, ...],
    form: str,
    max_regression: float | None,
    strict: bool,
    seed: int,
) -> int:
    """Compare run B with run A on the questions that both answered.

    A and B are run folders (or their samples.jsonl). Runs that differ in questions, order of
    choices, prompt, sampling, thinking, budget, repeats or grader are refused.
    """
    first, second = readable_arms([a, b])
    from ds4eval.compare.judge import compare

    grader = grader or first.run.headline
    result = compare(
        first, second, grader=grader, margin=margin / 100, by=by, allow=allow, seed=seed
    )
    show(result, form)
    return result.exit_code(None if max_regression is None else max_regression / 100, strict)
