"""`ds4-bench calibrate`: A against A, so that a machine's noise is known before it is trusted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ds4bench.commands.ab import guarded, open_session, session_options
from engine.errors import OptionError
from engine.tooling import exits
from engine.tooling.options.group import option
from engine.tooling.options.types import Whole
from engine.tooling.program import Command

if TYPE_CHECKING:
    from ds4bench.ab.noise import Calibration
    from ds4bench.ab.plan import AbPlan
    from ds4bench.ab.process import SessionSignals


@click.command("calibrate", cls=Command)
@click.argument("options", nargs=-1, metavar="[-- SWEEP OPTIONS]")
@option("--show", "only_show", is_flag=True, help="Print the stored noise floors and end.")
@option(
    "--pairs",
    section="Measuring",
    type=Whole(5, 1000),
    default=8,
    help="Pairs of sweeps to measure.",
)
@option(
    "--out",
    section="Measuring",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the session.",
    default_text="calibrate-TIME",
)
@session_options
def calibrate_command(
    options: tuple[str, ...],
    pairs: int,
    out: Path | None,
    only_show: bool,
    max_load: float,
    patience: float,
    sweep_timeout: float | None,
    seed: int | None,
    resume: bool,
) -> int:
    """Measure this machine's noise floor: the same code twice, in turns.

    The scatter is kept per machine. `ab` and `compare` refuse a tolerance that is smaller than
    what this machine can show. Use the sweep options that you will compare with.
    """

    def build(chosen: int) -> AbPlan:
        from ds4bench.ab.plan import AbPlan, side

        same = side("a", None, None, None, "", options)
        return AbPlan(
            same,
            same,
            chosen,
            min_pairs=pairs,
            max_pairs=pairs,
            max_load=max_load,
            patience_s=patience,
            sweep_timeout_s=sweep_timeout,
        )

    def body(signals: SessionSignals) -> int:
        from ds4bench.ab import noise as calibrate
        from ds4bench.compare.stats import Verdict

        if only_show:
            return show_stored()
        if options and not options[0].startswith("-"):
            raise OptionError(f"calibrate: expected sweep options, found {options[0]!r}")
        folder = out or Path(time.strftime("calibrate-%Y%m%dT%H%M%SZ", time.gmtime()))
        session = open_session(folder, build, seed, signals, resume=resume)
        result = session.run(resume=resume)
        if result.unlike:
            click.echo(f"unfit: {result.unlike[0]}", err=True)
            return exits.INCOMPARABLE
        if result.outputs:
            click.echo(f"the same code emitted {result.outputs[0]}", err=True)
            return exits.OUTPUTS_DIFFER
        machine = calibrate.machine_id(session.valid[0].a.environment)
        found = calibrate.from_comparison(result, machine, " ".join(options))
        path = calibrate.store(found)
        click.echo(table(found), nl=False)
        click.echo(f"stored: {path}", err=True)
        if result.verdict is Verdict.REGRESSED:
            click.echo(
                "warning: A against A was judged a regression; this machine drifts or is shared",
                err=True,
            )
        return exits.OK

    return guarded(body)


def show_stored() -> int:
    """Print every stored calibration; status 1 where there is none."""
    from ds4bench.ab import noise as calibrate

    found = sorted(calibrate.folder().glob("*.json"))
    for path in found:
        stored = calibrate.load(path.stem)
        if stored is not None:
            when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(stored.at))
            click.echo(f"machine {stored.machine}, {when}, options: {stored.command or '(none)'}")
            click.echo(table(stored), nl=False)
    if not found:
        click.echo("no calibration is stored; `ds4-bench calibrate` makes one", err=True)
        return exits.ERROR
    return exits.OK


def table(calibration: Calibration) -> str:
    """Noise and what it allows, as text of fixed width with final LF."""
    from ds4bench.compare.stats import mde_of

    counts = (6, 12, 40)
    head = f"{'curve':24} {'sigma':>8} {'bias':>8} " + " ".join(f"{f'MDE {n}':>8}" for n in counts)
    lines = [head]
    for floor in calibration.floors:
        smallest = " ".join(f"{100 * mde_of(floor.sigma, n):7.2f}%" for n in counts)
        lines.append(
            f"{floor.metric + ' ' + floor.mode:24} {100 * floor.sigma:7.2f}% "
            f"{100 * floor.bias:+7.2f}% {smallest}"
        )
    lines.append("MDE n: smallest change that n pairs show four times in five")
    return "\n".join(lines) + "\n"
