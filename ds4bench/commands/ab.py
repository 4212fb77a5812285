"""`ds4-bench ab`: two set-ups measured in turns, to a verdict and an exit status."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ds4bench.commands.compare import check_outputs, common_options, parse_tolerances, show
from engine.errors import OptionError
from engine.tooling.options.group import option, options
from engine.tooling.options.types import Number, Whole
from engine.tooling.program import Command

if TYPE_CHECKING:
    from ds4bench.ab.loop import AbSession
    from ds4bench.ab.plan import AbPlan
    from ds4bench.ab.process import SessionSignals


# Of `ab` and `calibrate`.
session_options = options(
    option("--max-load", section="Measuring", type=Number(0, 100), default=25.0, metavar="PERCENT",
           help="Drop a pair of sweeps where other work keeps the cores busier than this."),
    option("--patience", section="Measuring", type=Number(0), default=30.0, metavar="SECONDS",
           help="Wait this long for a quiet machine."),
    option("--sweep-timeout", section="Measuring", type=Number(1), metavar="SECONDS",
           help="Longest that one sweep may take.", default_text="no limit"),
    option("--seed", section="Measuring", type=Whole(0, 2**32 - 1),
           help="Seed that decides which side is measured first.",
           default_text="drawn and recorded"),
    option("--resume", section="Measuring", is_flag=True, help="Go on with the session in --out."),
)  # fmt: skip


@click.command("ab", cls=Command)
@click.argument("targets", nargs=-1, metavar="[A B] [-- SWEEP OPTIONS]")
@option(
    "--a", "a_command", section="Sides", metavar="CMD", help="Command that runs ds4-bench as A."
)
@option("--b", "b_command", section="Sides", metavar="CMD", help="Command that runs it as B.")
@option("--a-dir", section="Sides", metavar="DIR", help="Checkout or virtual environment of A.")
@option("--b-dir", section="Sides", metavar="DIR", help="Checkout or virtual environment of B.")
@option("--a-args", section="Sides", default="", metavar="TEXT", help="Sweep options of A only.")
@option("--b-args", section="Sides", default="", metavar="TEXT", help="Sweep options of B only.")
@option(
    "--out",
    section="Measuring",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the session.",
    default_text="ab-TIME",
)
@option(
    "--min-pairs",
    section="Measuring",
    type=Whole(2, 1000),
    default=6,
    help="Measure at least this many pairs of sweeps.",
)
@option(
    "--max-pairs",
    section="Measuring",
    type=Whole(2, 1000),
    default=40,
    help="Measure at most this many pairs of sweeps.",
)
@option(
    "--budget",
    section="Measuring",
    type=Number(0),
    metavar="MINUTES",
    help="Start no pair after this long.",
    default_text="no limit",
)
@session_options
@common_options
def ab_command(
    targets: tuple[str, ...],
    a_command: str | None,
    b_command: str | None,
    a_dir: str | None,
    b_dir: str | None,
    a_args: str,
    b_args: str,
    out: Path | None,
    min_pairs: int,
    max_pairs: int,
    budget: float | None,
    max_load: float,
    patience: float,
    sweep_timeout: float | None,
    seed: int | None,
    resume: bool,
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
    """Measure A and B in turns and judge whether B is slower.

    A and B are checkouts or virtual environments; or name them by --a-dir and --b-dir, give whole
    commands with --a and --b, or options of one side with --a-args and --b-args. Options behind
    "--" go to every sweep of both. Each sweep is a fresh process, pairs are in ABBA order, and
    sampling stops when every curve is decided.

    Example: ds4-bench ab ../base . -- --ctx-start 256 --ctx-max 1024 --step-mul 2
    """

    def build(chosen: int) -> AbPlan:
        from ds4bench.ab.plan import AbPlan, side

        named, common = split_targets(targets)
        a_target, b_target = named if named else (None, None)
        return AbPlan(
            side("a", a_target, a_command, a_dir, a_args, common),
            side("b", b_target, b_command, b_dir, b_args, common),
            chosen,
            min_pairs=min_pairs,
            max_pairs=max_pairs,
            budget_s=None if budget is None else 60 * budget,
            max_load=max_load,
            patience_s=patience,
            sweep_timeout_s=sweep_timeout,
        )

    def body(signals: SessionSignals) -> int:
        limits = parse_tolerances(tolerances)
        # A resumed session may write its verdict again.
        check_outputs(markdown, json_out, junit, force=force or resume)
        folder = out or Path(time.strftime("ab-%Y%m%dT%H%M%SZ", time.gmtime()))
        session = open_session(folder, build, seed, signals, resume=resume)
        session.tolerances, session.allow = limits, allow
        session.check = lambda arm: _refuse_below_floor(limits, arm, max_pairs)
        result = session.run(resume=resume)
        files = {"markdown": markdown, "json_out": json_out, "junit": junit}
        show(result, form=form, every_cell=every_cell, **files)
        click.echo(f"session: {folder}", err=True)
        return result.exit_code(strict)

    return guarded(body)


def split_targets(words: tuple[str, ...]) -> tuple[tuple[str, str] | None, tuple[str, ...]]:
    """The two set-ups, if named, and the sweep options behind them.

    Raises
    ------
    OptionError
        If only one set-up is named.
    """
    n_named = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    if n_named not in (0, 2):
        raise OptionError(f"ab: expected two set-ups or none, found {n_named}: {words[:n_named]!r}")
    named = (words[0], words[1]) if n_named else None
    return named, words[n_named:]


def open_session(
    folder: Path, build: Any, seed: int | None, signals: SessionSignals, *, resume: bool
) -> AbSession:
    """A session over `folder`, with the seed of the one that is resumed.

    Raises
    ------
    EngineError
        If the folder's journal is damaged.
    """
    from ds4bench.ab.loop import SCHEMA, SCHEMA_VERSION, AbSession
    from ds4bench.ab.process import default_seed, quiet_machine, sweep_runner
    from engine.tooling.results.journal import read_journal

    path = folder / "pairs.jsonl"
    if seed is None and resume and path.exists():
        seed = read_journal(path, SCHEMA, SCHEMA_VERSION).header.get("seed")
    plan = build(default_seed() if seed is None else seed)
    for line in plan.model_lines():
        click.echo(line, err=True)
    return AbSession(
        plan,
        folder,
        sweep_runner(plan, signals),
        quiet=quiet_machine(plan.max_load, plan.patience_s),
        note=lambda text: click.echo(text, err=True),
    )


def guarded(body: Callable[[SessionSignals], int]) -> int:
    """Run a command's body; a signal becomes its status."""
    from ds4bench.ab.process import SessionSignals, Stopped

    try:
        with SessionSignals() as signals:
            return body(signals)
    except Stopped as stopped:
        click.echo("stopped; finished pairs are safe, --resume goes on", err=True)
        return stopped.exit_code


def _refuse_below_floor(limits: dict[str, float], arm: Any, max_pairs: int) -> None:
    from ds4bench.ab.noise import refuse_below_floor

    refuse_below_floor(limits, arm, max_pairs)
