"""`ds4-eval view`: shows every reply of a run, or of two, on the screen or as a page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ds4eval.commands.compare import readable_arms
from engine.errors import OptionError
from engine.tooling.exits import say
from engine.tooling.options.group import option
from engine.tooling.program import Command

if TYPE_CHECKING:
    from ds4eval.screen.browse import Browsed


@click.command("view", cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("other", required=False, type=click.Path(path_type=Path))
@option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a page that needs nothing else, in place of the screen. It holds the exam's text: "
    "keep it on this machine.",
)
@option("--force", is_flag=True, help="Replace FILE if it exists.")
def view_command(run: Path, other: Path | None, html: Path | None, force: bool) -> int:
    """Read the replies of RUN; with OTHER, also where the two differ.

    Shows questions, choices, thinking (folded), replies with what each grader read, tokens and
    time; filters by state, source, words, and by what one of two runs alone got right.
    """
    if force and html is None:
        raise OptionError("--force: expected with --html, found without")
    arms = readable_arms([run] if other is None else [run, other])
    from ds4eval.screen.browse import browsed

    found = browsed(arms)
    if html is None:
        _screen(found)
        return 0
    from ds4eval.screen.page import WARNING, replies_page
    from engine.tooling.results.publish import check_output, publish_bytes

    check_output(html, "--html", replace=force)
    publish_bytes(html, replies_page(found).encode("utf-8", "replace"), private=True)
    say(f"wrote {html}")
    say(f"{html.name}: {WARNING}")
    return 0


def _screen(found: Browsed) -> None:
    """The full screen over finished runs.

    Raises
    ------
    OptionError
        Where there is no terminal that can show it.
    """
    from ds4eval.control import Control
    from ds4eval.screen.browse import view_of
    from ds4eval.screen.choose import why_plain

    reason = why_plain()
    if reason:
        raise OptionError(
            f"view: expected a terminal that can show the screen, found none ({reason}); "
            "--html FILE writes a page"
        )
    from ds4eval.screen.app import EvalApp

    app = EvalApp(iter(()), Control(), view=view_of(found))
    app.run()
    sys.stdout.flush()
