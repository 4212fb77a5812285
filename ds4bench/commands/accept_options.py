"""Options that ask what another acceptance of drafts would give, of a sweep and of a panel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from engine.errors import OptionError
from engine.tooling.options.group import option, options

ACCEPT: Callable[[Any], Any] = options(
    option(
        "--accept",
        section="Speculation, computed",
        metavar="P1,P2,...",
        help="Compute rates for drafts that are kept with these shares by position, each of those "
        "whose earlier drafts were kept.",
    ),
    option(
        "--accept-replay",
        section="Speculation, computed",
        type=click.Path(path_type=Path),
        help="Compute rates for a trace: accepted drafts of each step as numbers, or a results "
        "file.",
    ),
)


def accept_from(journal: Path | None, values: dict[str, Any]) -> Path | None:
    """The journal to compute other acceptance from; None where nobody asks for that.

    Raises
    ------
    EngineError
        If the acceptance is none, or there will be no file of rows.
    """
    from ds4bench.panel.summary import parse_accept, read_accepted

    accept, replay = values["accept"], values["accept_replay"]
    if accept is not None:
        parse_accept(accept)
    if replay is not None:
        read_accepted(replay)
    asked = accept is not None or replay is not None
    if asked and journal is None:
        raise OptionError("--accept: expected --csv, --parquet or --out, found none")
    return journal if asked else None


def say_computed(journal: Path, values: dict[str, Any]) -> None:
    """The panel of a finished sweep, with what was asked for."""
    from ds4bench.panel.costs import step_costs
    from ds4bench.panel.summary import computed, summary
    from ds4bench.records.files import read_rows

    rows = read_rows(journal).rows
    asked = computed(step_costs(rows), values["accept"], values["accept_replay"])
    click.echo(summary(rows, asked), err=True)
