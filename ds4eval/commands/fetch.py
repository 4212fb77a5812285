"""`ds4-eval fetch`: published data sets into the user's data folder."""

from __future__ import annotations

from pathlib import Path

import click

from ds4eval.questions.fetch import fetch_dataset
from ds4eval.questions.known import PUBLISHED
from ds4eval.questions.loaders import data_roots
from engine.errors import OptionError
from engine.tooling.exits import say
from engine.tooling.options.group import option
from engine.tooling.program import Command


@click.command("fetch", cls=Command)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@option(
    "--revision",
    default="",
    metavar="COMMIT",
    help="Fetch this revision in place of the pinned one.",
)
@option(
    "--to",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of data sets.",
    default_text="the first of $DS4_EVAL_DATA, or the user's data folder",
)
@option("--force", is_flag=True, help="Replace a copy that is there.")
def fetch_command(names: tuple[str, ...], revision: str, to: Path | None, force: bool) -> int:
    """Fetch published data sets; without a name, say which there are and where they go."""
    root = to or data_roots()[0]
    for name in names:
        if name not in PUBLISHED:
            raise OptionError(f"NAME: expected one of {', '.join(PUBLISHED)}, found {name!r}")
    if revision and len(names) != 1:
        raise OptionError(f"--revision: expected with one NAME, found {len(names)}")
    if not names:
        for known in PUBLISHED.values():
            there = "there" if (root / known.name).exists() else "not fetched"
            gated = ", gated" if known.gated else ""
            click.echo(
                f"{known.name:13} {known.rows:6} questions  {known.repo} at "
                f"{known.revision[:12]}{gated}; {known.licence} [{there}]"
            )
        click.echo(f"folder: {root}")
        return 0
    for name in names:
        fetched = fetch_dataset(name, root, revision, force)
        known = PUBLISHED[name]
        click.echo(
            f"{name}: {len(fetched.dataset.questions)} questions in {fetched.folder}, "
            f"revision {fetched.commit[:12]}, sha256 {fetched.dataset.sha256[:16]}"
        )
        say(f"{name}: licence {known.licence}")
        for finding in fetched.dataset.findings:
            if finding.level != "note":
                say(f"{name}: {finding}")
    return 0
