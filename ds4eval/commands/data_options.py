"""Options that name data, shared by commands: --dataset NAME=PATH, --suite, selections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click

from ds4eval.questions.known import DATASETS
from engine.errors import OptionError

Command = TypeVar("Command", bound=Callable[..., object])


def parse_datasets(values: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """Mapping of data set to paths from NAME=PATH texts; a name may come again for its parts.

    Raises
    ------
    OptionError
        If a text has no '=', or the name is unknown.
    """
    found: dict[str, tuple[Path, ...]] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals or not path or name not in DATASETS:
            raise OptionError(
                f"--dataset: expected NAME=PATH with a name of {', '.join(DATASETS)}, "
                f"found {value!r}"
            )
        found[name] = (*found.get(name, ()), Path(path).expanduser())
    return found


def dataset_option(command: Command) -> Command:
    """Decorator: --dataset."""
    return click.option(
        "--dataset",
        "datasets",
        multiple=True,
        metavar="NAME=PATH",
        help=f"Where a data set lies; NAME is {', '.join(DATASETS)}. May be given again.",
    )(command)


def selection_options(command: Command) -> Command:
    """Decorator: --ids, --filter, --offset and --limit."""
    for option in (
        click.option("--limit", type=click.IntRange(1), help="At most this many questions."),
        click.option("--offset", type=click.IntRange(0), default=0, help="Leave out the first N."),
        click.option(
            "--filter",
            "filters",
            multiple=True,
            metavar="FIELD=PATTERN",
            help="Only questions that fit, e.g. difficulty=hard, domain!=Law, source=AIME*.",
        ),
        click.option(
            "--ids",
            metavar="LIST",
            help="Only these, separated by commas: ids, numbers from 1, ranges such as 3-7.",
        ),
    ):
        command = option(command)
    return command


def split_ids(text: str | None) -> tuple[str, ...]:
    """Parts of --ids; a file that holds them, one a line, may be named as @FILE.

    Raises
    ------
    OptionError
        If the file cannot be read or nothing is named.
    """
    if text is None:
        return ()
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"--ids: expected a text file, found {error}") from None
    parts = tuple(part.strip() for part in text.replace("\n", ",").split(",") if part.strip())
    if not parts:
        raise OptionError("--ids: expected at least one id, found none")
    return parts
