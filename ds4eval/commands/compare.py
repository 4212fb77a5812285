"""`ds4-eval compare`: two runs to a verdict and an exit status."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.errors import EngineError, StoreError
from engine.tooling.exits import say

if TYPE_CHECKING:
    from ds4eval.compare.result import Comparison

# As `grading.GRADERS` and `compare_data.FIELDS`; a test holds them equal. --help must not pay
# for what those modules import.
GRADERS = ("strict", "lenient", "ds4-classic")
ALLOWABLE = (
    *("questions", "question", "permutation", "repeats", "prompt_version"),
    *("sampling", "think", "budget", "grader"),
)
DATA_UNAVAILABLE = 3
FORMATS = ("table", "markdown", "json")
WIDE = 150  # a file or pipe has no width; 80 columns would fold the verdicts
EPILOG = (
    "Exit status: 0 done; 1 regression; 2 bad option, or runs that differ in more than the model; "
    "3 no readable run; 5 a run is unfinished."
)


def fail(error: EngineError) -> None:
    """One line on stderr and the documented status; a run that cannot be read is missing data."""
    say(f"ds4-eval: {error}")
    sys.exit(DATA_UNAVAILABLE if isinstance(error, StoreError) else error.exit_code)


def shared_options(command: Any) -> Any:
    """Options that `compare` and `report` share."""
    for option in reversed(
        (
            click.option(
                "--grader",
                type=click.Choice(GRADERS),
                default="strict",
                show_default=True,
                help="Whose grades are counted.",
            ),
            click.option(
                "--by",
                default="source",
                show_default=True,
                metavar="FIELD",
                help="A line per source, domain, kind, or stratum such as difficulty.",
            ),
            click.option(
                "--margin",
                type=click.FloatRange(0, 50, min_open=True),
                default=3.0,
                show_default=True,
                metavar="POINTS",
                help="Runs this close count as equivalent.",
            ),
            click.option(
                "--allow",
                multiple=True,
                type=click.Choice(ALLOWABLE),
                help="Compare although this field differs; repeatable.",
            ),
            click.option(
                "--format",
                "form",
                type=click.Choice(FORMATS),
                default="table",
                show_default=True,
                help="What goes to standard output.",
            ),
        )
    ):
        command = option(command)
    return command


def show(result: Comparison, form: str) -> None:
    """Print a comparison to standard output."""
    from ds4eval.compare import view

    if form == "json":
        click.echo(view.json_text(result), nl=False)
    elif form == "markdown":
        click.echo(view.to_markdown(result), nl=False)
    else:
        view.print_rich(result, console())


def console() -> Any:
    """A terminal as wide as it is, and anything else wide enough."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False, soft_wrap=False)


@click.command("compare", epilog=EPILOG)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@shared_options
@click.option("--max-regression", type=click.FloatRange(0, 100), metavar="POINTS",
              help="Exit 1 when B is significantly worse and lost more than this.")  # fmt: skip
@click.option("--strict", is_flag=True, help="Exit 1 unless B is shown not to be worse.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True,
              help="Of the bootstrap.")  # fmt: skip
def compare_command(
    a: Path,
    b: Path,
    grader: str,
    by: str,
    margin: float,
    allow: tuple[str, ...],
    form: str,
    max_regression: float | None,
    strict: bool,
    seed: int,
) -> None:
    """Compare run B with run A on the questions that both answered.

    A and B are run folders (or their samples.jsonl). Runs that differ in questions, order of
    choices, prompt, sampling, thinking, budget, repeats or grader are refused.
    """
    try:
        # scipy takes a good part of a second; bad options must not pay it.
        from ds4eval.compare.judge import compare
        from ds4eval.compare.pairs import load_arms

        first, second = load_arms([a, b])
        result = compare(
            first, second, grader=grader, margin=margin / 100, by=by, allow=allow, seed=seed
        )
        show(result, form)
    except EngineError as error:
        fail(error)
    sys.exit(result.exit_code(None if max_regression is None else max_regression / 100, strict))
