"""`ds4-bench sweep`: options to a plan, checked before anything is loaded or overwritten.

Nothing here imports numba, numpy or the engine; --help and bad options must not pay for them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ds4bench.commands.accept_options import ACCEPT, accept_from, say_computed
from ds4bench.commands.force import RECORD_PATHS
from ds4bench.commands.server_options import SERVER, refuse_idle
from engine.errors import EngineError, OptionError
from engine.tooling.options.group import option
from engine.tooling.options.kernels import kernel_options
from engine.tooling.options.model import DEFAULT_MODEL, MODEL
from engine.tooling.options.sampling import sampling_options
from engine.tooling.options.speculation import spec_options
from engine.tooling.options.types import Number, OneOf, Whole
from engine.tooling.program import Command

if TYPE_CHECKING:
    from ds4bench.plan import Prompt
    from ds4bench.server.run import ServerRequest
    from ds4bench.sweep.opened import Outputs
    from ds4bench.sweep.run import SweepRequest

COUNT = Whole(1, 2**31 - 1)
GRID = ("ctx_start", "ctx_max", "ctx_alloc", "step_incr", "step_mul", "gen_tokens", "repeats")
FILE = click.Path(path_type=Path)
KERNELS = kernel_options(backends=("cpu", "cuda"))
SPECULATION = spec_options(several=True)
SAMPLING = sampling_options(
    temp=0.0,
    top_p=0.95,
    min_p=0.0,
    seed=1234,
    seed_help="Seed of sampling and of the generated prompt.",
)


@click.command("sweep", cls=Command)
@option("--ctx-start", section="Sweep", type=COUNT, default=2048, help="First context length.")
@option("--ctx-max", section="Sweep", type=COUNT, default=32768, help="Last context length.")
@option(
    "--step-incr",
    section="Sweep",
    type=int,
    default=2048,
    metavar="N",
    help="Tokens between context lengths, where --step-mul is 1.",
)
@option(
    "--step-mul",
    section="Sweep",
    type=float,
    default=1.0,
    metavar="X",
    help="Factor between context lengths.",
)
@option(
    "-n",
    "--gen-tokens",
    "--tokens",
    section="Sweep",
    type=COUNT,
    default=128,
    help="Tokens decoded at each context length.",
)
@option("--repeats", section="Sweep", type=COUNT, default=1, help="Runs of the whole sweep.")
@option(
    "--ctx-alloc",
    section="Sweep",
    type=COUNT,
    help="Tokens of context to allocate.",
    default_text="--ctx-max + --gen-tokens + 1",
)
@option(
    "--row-timeout",
    section="Sweep",
    type=Number(1),
    metavar="SECONDS",
    help="Longest that a prefill or a decode may take.",
    default_text="10 times the pace so far",
)
@option(
    "--dry-run", section="Sweep", is_flag=True, help="Print plan, memory and least time, then end."
)
@option(
    "--predict",
    section="Sweep",
    multiple=True,
    metavar="MACHINE",
    help="Print what the memory of gb10, h200, ... allows. May be given again.",
)
@option(
    "--prompt-file",
    section="Prompt",
    type=FILE,
    help="Text to evaluate.",
    default_text="generated text",
)
@option(
    "--chat-prompt-file",
    section="Prompt",
    type=FILE,
    help="Text to evaluate as one user turn, without thinking.",
)
@option(
    "-sys",
    "--system",
    section="Prompt",
    default="You are a helpful assistant",
    help="System text, with --chat-prompt-file.",
)
@option(
    "--repeat-prompt",
    section="Prompt",
    is_flag=True,
    help="Repeat the text until it is long enough.",
)
@option(
    "--prompt-set",
    section="Prompt",
    type=OneOf(("panel",)),
    help="A text of each kind (prose, code, tables, ...) in place of one: text decides how many "
    "drafts are kept.",
)
@SERVER
@ACCEPT
@option(
    "--csv",
    section="Results",
    type=FILE,
    help="CSV file; '-' is standard output.",
    default_text="-",
)
@option(
    "--parquet",
    section="Results",
    type=FILE,
    help="Parquet file with raw seconds and the environment.",
)
@option("--plot", section="Results", type=FILE, help="SVG or PNG file.")
@option(
    "--out",
    section="Results",
    type=FILE,
    metavar="DIR",
    help="Folder for rows.jsonl, sweep.csv and sweep.parquet.",
)
@option(
    "--resume", section="Results", is_flag=True, help="Go on with the sweep that these files hold."
)
@option(
    "--retry-failed",
    section="Results",
    is_flag=True,
    help="With --resume: measure failed rows again.",
)
@option(
    "--force",
    section="Results",
    is_flag=True,
    help="Start over; old files are kept as NAME.old-TIME.",
)
@option(
    "--allow-network-fs",
    section="Results",
    is_flag=True,
    help="Write results to a network file system such as NFS.",
)
@RECORD_PATHS
@MODEL
@KERNELS
@SPECULATION
@SAMPLING
@click.pass_context
def sweep_command(ctx: click.Context, /, **values: Any) -> int:
    """Measure prefill and decode speed at growing context lengths.

    Results go to a journal that survives crashes (beside the CSV, ending in .jsonl) and are
    published from it as CSV and Parquet.
    """
    refuse_idle(ctx, values)
    if values["base_url"] is not None:
        from ds4bench.server import run as server_run

        return server_run.execute(build_server_request(ctx, values))
    request = build_request(ctx, values)
    from ds4bench.sweep.run import execute

    journal = accept_from(request.outputs.journal, values)
    try:
        status = execute(request)
        if journal is not None and not request.dry_run:
            say_computed(journal, values)
        return status
    except EngineError as error:
        click.echo(getattr(error, "worker_trace", ""), err=True, nl=False)
        raise


def _is_given(ctx: click.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def build_request(ctx: click.Context, values: dict[str, Any]) -> SweepRequest:
    """Validate everything that needs no model.

    Parameters
    ----------
    ctx : click.Context
        Knows which options were given.
    values : dict
        The options by name; those of the groups are removed.

    Raises
    ------
    OptionError, TextError
        Naming the option.
    """
    from ds4bench.plan import Sampling, SweepPlan
    from ds4bench.sweep.run import SweepRequest
    from ds4bench.telemetry.machines import machine

    model, kernels = MODEL.take(values), KERNELS.take(values)
    spec, drawn = SPECULATION.take(values), SAMPLING.take(values)
    assert drawn.seed is not None, "the group's default"
    model.enter_folder()
    machines = tuple(machine(name) for name in values["predict"])
    outputs = _checked_outputs(ctx, values)
    plan_options = dict(
        sampling=Sampling(drawn.temp, drawn.top_k, drawn.top_p, drawn.min_p, drawn.seed),
        mtp_draft=spec.draft,
        mtp_adaptive=spec.adaptive,
        mtp_margin=spec.margin,
        draft_max=spec.draft_max,
        draft_confidence=spec.draft_confidence,
        draft_adaptive=spec.draft_adaptive,
        draft_force=spec.draft_force,
        modes=spec.modes,
        warm_weights=model.warm,
        check_values=model.check_values,
        **{name: values[name] for name in GRID},
        **kernels.to_dict(),
    )
    # Numbers first: they cost nothing, files may.
    SweepPlan(model=DEFAULT_MODEL, **plan_options)
    prompt = _prompt(values, drawn.seed)
    # Whether a named model has a block, the worker says that has read its header.
    found = spec.found(model)
    if found.notice:
        click.echo(found.notice, err=True)
    plan_options["modes"] = spec.settled(found).modes
    path = model.resolve(lambda line: click.echo(line, err=True))
    plan = SweepPlan(model=path, mtp=found.mtp, dspark=found.dspark, prompt=prompt, **plan_options)
    return SweepRequest(
        plan,
        outputs,
        resume=values["resume"],
        force=values["force"],
        retry_failed=values["retry_failed"],
        dry_run=values["dry_run"],
        row_timeout_s=values["row_timeout"],
        allow_network_fs=values["allow_network_fs"],
        record_paths=values["record_paths"],
        predict=machines,
    )


def _checked_outputs(ctx: click.Context, values: dict[str, Any]) -> Outputs:
    """Where results go; options that contradict each other or go nowhere are refused."""
    if values["retry_failed"] and not values["resume"]:
        raise OptionError("--retry-failed: expected --resume, found none")
    if values["resume"] and values["force"]:
        raise OptionError("--resume: expected without --force, found both")
    if values["chat_prompt_file"] is None and _is_given(ctx, "system"):
        raise OptionError("--system: expected --chat-prompt-file, found none")
    outputs = _outputs(values)
    if values["resume"] and outputs.journal is None:
        raise OptionError("--resume: expected --csv, --parquet or --out to go on with, found none")
    return outputs


def build_server_request(ctx: click.Context, values: dict[str, Any]) -> ServerRequest:
    """The same for a server, which is not asked yet.

    Raises
    ------
    OptionError, TextError
        Naming the option.
    """
    from ds4bench.plan import Sampling, SweepPlan
    from ds4bench.server.plan import MODE, ServerPlan
    from ds4bench.server.run import ServerRequest

    server, users, prefixes = SERVER.take(values)(values["row_timeout"])
    MODEL.take(values).enter_folder()
    modes = SPECULATION.take(values).modes if values["mode"] else (MODE,)
    if len(modes) != 1:
        raise OptionError(f"--mode: expected one mode of the server, found {', '.join(modes)}")
    drawn = SAMPLING.take(values)
    assert drawn.seed is not None, "the group's default"
    outputs = _checked_outputs(ctx, values)
    options = dict(
        sampling=Sampling(drawn.temp, drawn.top_k, drawn.top_p, drawn.min_p, drawn.seed),
        **{name: values[name] for name in GRID},
    )
    SweepPlan(model=Path(server.place), **options)
    sweep = SweepPlan(model=Path(server.place), prompt=_prompt(values, drawn.seed), **options)
    return ServerRequest(
        ServerPlan(sweep, server, users, prefixes, modes[0]),
        outputs,
        resume=values["resume"],
        force=values["force"],
        retry_failed=values["retry_failed"],
        dry_run=values["dry_run"],
        allow_network_fs=values["allow_network_fs"],
        record_paths=values["record_paths"],
    )


def _prompt(values: dict[str, Any], seed: int) -> Prompt:
    from ds4bench.plan import Prompt

    if values["prompt_set"] is not None:
        for name in ("prompt_file", "chat_prompt_file", "repeat_prompt"):
            if values[name]:
                option = "--" + name.replace("_", "-")
                raise OptionError(f"--prompt-set: expected without {option}, found both")
        from ds4bench.panel.texts import SETS

        return Prompt(seed=seed, classes=SETS[values["prompt_set"]])
    plain, chat = values["prompt_file"], values["chat_prompt_file"]
    if plain is not None and chat is not None:
        raise OptionError("--prompt-file: expected one prompt, found --chat-prompt-file too")
    if plain is None and chat is None:
        if values["repeat_prompt"]:
            raise OptionError("--repeat-prompt: expected --prompt-file, found none")
        click.echo(f"prompt: generated text, seed {seed}", err=True)
        return Prompt(seed=seed)
    from engine.text.files import read_text

    name, path = ("--prompt-file", plain) if chat is None else ("--chat-prompt-file", chat)
    text = read_text(path, name)
    if not text:
        raise OptionError(f"{name}: expected text, found an empty file {str(path)!r}")
    return Prompt(
        path=path,
        text=text,
        chat=chat is not None,
        system=values["system"],
        repeat=values["repeat_prompt"],
        seed=seed,
    )


def _outputs(values: dict[str, Any]) -> Outputs:
    from ds4bench.sweep.opened import Outputs

    csv, parquet, plot, out = (values[name] for name in ("csv", "parquet", "plot", "out"))
    for name in ("csv", "parquet", "plot", "out"):
        if values[name] is not None and not values[name].name:
            raise OptionError(f"--{name}: expected a file name, found {str(values[name])!r}")
    stdout = csv is not None and str(csv) == "-"
    if stdout:
        csv = None
    if plot is not None and plot.suffix.lower() not in (".svg", ".png"):
        raise OptionError(f"--plot: expected a name ending in .svg or .png, found {str(plot)!r}")
    if out is not None:
        if stdout:
            raise OptionError("--csv: expected a file with --out, found '-'")
        journal = out / "rows.jsonl"
        return _distinct(
            Outputs(journal, csv or out / "sweep.csv", parquet or out / "sweep.parquet", plot, out)
        )
    named = csv or parquet or plot
    if stdout and named is not None:
        raise OptionError("--csv: expected a file with --parquet or --plot, found '-'")
    journal = None if named is None else named.with_suffix(".jsonl")
    return _distinct(Outputs(journal, csv, parquet, plot))


def _distinct(outputs: Outputs) -> Outputs:
    seen: dict[str, str] = {}
    for name, path in outputs.named():
        real = os.path.realpath(path)
        if real in seen:
            raise OptionError(
                f"{name}: expected a file of its own, found that of {seen[real]}: {str(path)!r}"
            )
        seen[real] = name
    return outputs
