"""Options of several commands: data sets, and the part of a suite that is meant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ds4eval.questions.known import DATASETS
from engine.errors import OptionError, StoreError
from engine.text.files import read_text
from engine.tooling import exits
from engine.tooling.options.group import option, options
from engine.tooling.options.types import Whole

Read = TypeVar("Read")
Function = TypeVar("Function", bound=Callable[..., object])
# The graders that may decide a run's score.
MOST_IDS_BYTES = 64 << 20
HEADLINES = ("strict", "lenient", "classic")
FILTER_HELP = (
    "Take questions that fit, e.g. difficulty=hard, domain!=Law, source=AIME*. FIELD is id, "
    "source, kind, domain or a stratum. May be given again."
)


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


def dataset_option(command: Function) -> Function:
    """Decorator: --dataset."""
    return option(
        "--dataset",
        "datasets",
        section="Questions",
        multiple=True,
        metavar="NAME=PATH",
        help="Where your copy of a data set lies. May be given again.",
    )(command)


class UnreadableRun(StoreError):
    """A run folder that was given to be read, and cannot be: an input is missing or damaged."""

    exit_code = exits.BAD_INPUT


def readable(read: Callable[[], Read]) -> Read:
    """What `read` returns from run folders that a command line names.

    Raises
    ------
    UnreadableRun
        In place of `StoreError`, which stands for results that cannot be written.
    """
    try:
        return read()
    except StoreError as error:
        raise UnreadableRun(str(error)) from None


# --ids, --filter, --offset and --limit.
selection_options = options(
    option(
        "--ids",
        section="Questions",
        metavar="LIST",
        help="Only these, separated by commas: ids, numbers from 1, ranges such as 3-7.",
    ),
    option(
        "--filter",
        "filters",
        section="Questions",
        multiple=True,
        metavar="FIELD=PATTERN",
        help=FILTER_HELP,
    ),
    option(
        "--offset",
        section="Questions",
        type=Whole(0, 2**31 - 1),
        default=0,
        help="Leave out the first N questions.",
    ),
    option(
        "--limit", section="Questions", type=Whole(1, 2**31 - 1), help="Take at most N questions."
    ),
)


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
        text = read_text(Path(text[1:]).expanduser(), "--ids", MOST_IDS_BYTES)
    parts = tuple(part.strip() for part in text.replace("\n", ",").split(",") if part.strip())
    if not parts:
        raise OptionError("--ids: expected at least one id, found none")
    return parts
