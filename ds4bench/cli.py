"""The command line of `ds4-bench`: options to a plan, and one error to one line.

Nothing here imports numba, numpy or the engine; --help and bad options must not pay for them.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import stat
import sys
from pathlib import Path
from typing import Any

import click

from ds4bench import exits
from engine.errors import EngineError, OptionError
from engine.models.bundled import RECIPES, bundled_model
from engine.options import LAUNCH, MODES, RESIDENCY
from engine.tooling.options.finite import Finite
from engine.tooling.options.model import DEFAULT_MODEL, default_model, uses_bundled

# Subcommand -> module and attribute; loaded when called, so that one cannot break another.
COMMANDS = {
    "plot": ("ds4bench.commands.plot", "plot_command"),
    "compare": ("ds4bench.commands.compare", "compare_command"),
    "ab": ("ds4bench.commands.ab", "ab_command"),
    "calibrate": ("ds4bench.commands.calibrate", "calibrate_command"),
    "report": ("ds4bench.commands.report", "report_command"),
    "peer": ("ds4bench.peer.run", "peer_command"),
    "gpu": ("ds4bench.commands.gpu", "gpu_command"),
    "residency": ("ds4bench.commands.residency", "residency_command"),
}
SUMMARIES = {
    "plot": "Draw results files as SVG or PNG.",
    "compare": "Judge HEAD against BASE, with an exit status.",
    "ab": "Measure two set-ups in turns and judge them.",
    "calibrate": "Measure this machine's noise floor (A against A).",
    "report": "One HTML page and a Markdown summary of results.",
    "peer": "Our engine and llama.cpp on the same file and tokens.",
    "gpu": "Steps, kernels and all modes of the CUDA backend at full size.",
    "residency": "Which weights a CUDA device copies, and which stay in the file.",
}
DEVICE_OPTIONS = ("launch", "residency", "residency_gib", "device")
INT = click.IntRange(1, 2**31 - 1)


class LazyGroup(click.Group):
    """A group whose subcommands are imported when they run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        try:
            return getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            missing = error.name or str(error)
            raise click.ClickException(
                f"{cmd_name}: expected the package {missing!r}, found none installed"
            ) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what a user can act on is one line and a status."""
        from ds4bench.sweep.progress import printable

        try:
            return super().invoke(ctx)
        except EngineError as error:
            click.echo(f"error: {printable(str(error))}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            # A sweep handles its own signals; click would end everything else with 1.
            click.echo("interrupted", err=True)
            ctx.exit(exits.INTERRUPTED)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands (without one: measure)"):
            formatter.write_dl(list(SUMMARIES.items()))


def _positive(*names: str, default: int | None, text: str) -> Any:
    return click.option(*names, type=INT, default=default, show_default=default is not None,
                        help=text)  # fmt: skip


def _file(*names: str, text: str, metavar: str = "FILE") -> Any:
    return click.option(*names, type=click.Path(path_type=Path), metavar=metavar, help=text)


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=exits.epilog(),
)
@_file("-m", "--model", text=f"GGUF file.  [default: ./{DEFAULT_MODEL}, else the bundled model]")
@click.option("--nano", type=click.Choice(RECIPES),
              help="Bundled model of this recipe.  [default: iq2, without -m]")  # fmt: skip
@_file("--mtp", text="Separate MTP file.")
@click.option("--mtp-draft", type=click.IntRange(1, 4), default=1, show_default=True,
              help="Tokens drafted per step.")  # fmt: skip
@click.option("--mtp-adaptive", is_flag=True,
              help="Draft up to --mtp-draft tokens, as acceptance and cost suggest.")  # fmt: skip
@click.option("--mtp-margin", type=Finite(0), default=0.0, show_default=True,
              help="Stop drafting where the two best logits are closer than this.")  # fmt: skip
@click.option("--mode", "modes", multiple=True, type=click.Choice([*MODES, "all"]),
              help="Decode mode, repeatable.  [default: plain]")  # fmt: skip
@_file("--prompt-file", text="Text to evaluate.  [default: generated]")
@_file("--chat-prompt-file", text="Text to evaluate as one user turn, thinking off.")
@click.option("-sys", "--system", default="You are a helpful assistant", show_default=True,
              help="System text, with --chat-prompt-file.")  # fmt: skip
@click.option("--repeat-prompt", is_flag=True, help="Repeat the text until it is long enough.")
@click.option("--backend", metavar="NAME", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--cpu", "backend", flag_value="cpu", help="As --backend cpu.")
@click.option("--cuda", "backend", flag_value="cuda", help="As --backend cuda.")
@click.option("--metal", "backend", flag_value="metal", help="As --backend metal.")
@click.option("--launch", type=click.Choice(LAUNCH), default="graph", show_default=True,
              help="CUDA: how a recorded pass is launched.")  # fmt: skip
@click.option("--residency", type=click.Choice(RESIDENCY), default="auto", show_default=True,
              help="CUDA: where weights live.")  # fmt: skip
@click.option("--residency-gib", type=Finite(0), metavar="GIB",
              help="CUDA: most GiB of weights copied.  [default: the plan's]")  # fmt: skip
@click.option("--device", type=click.IntRange(0, 63), default=0, show_default=True,
              help="CUDA: ordinal of the device.")  # fmt: skip
@_positive("-t", "--threads", default=None, text="Worker threads.  [default: all usable cores]")
@click.option("--activations", type=click.Choice(["int8", "f32"]), default="int8",
              show_default=True, help="Arithmetic of products with quantised weights.")  # fmt: skip
@click.option("--kv", type=click.Choice(["official", "f32"]), default="official",
              show_default=True, help="Storage of KV rows.")  # fmt: skip
@click.option("--repack", type=click.Choice(["auto", "on", "off"]), default="auto",
              show_default=True, help="Interleaved copy of the weights.")  # fmt: skip
@click.option("--quality", is_flag=True, help="Exact arithmetic: as --activations f32.")
@click.option("--warm-weights", is_flag=True, help="Read the model file once before timing.")
@_positive("--ctx-start", default=2048, text="First context length.")
@_positive("--ctx-max", default=32768, text="Last context length.")
@_positive("--ctx-alloc", default=None, text="Allocated context.  [default: max + gen + 1]")
@click.option("--step-incr", type=int, default=2048, show_default=True,
              help="Tokens between frontiers, where --step-mul is 1.")  # fmt: skip
@click.option("--step-mul", type=float, default=1.0, show_default=True,
              help="Factor between frontiers.")  # fmt: skip
@_positive("-n", "--gen-tokens", "--tokens", default=128, text="Tokens decoded at each frontier.")
@_positive("--repeats", default=1, text="Runs of the whole sweep.")
@click.option("--temp", type=Finite(0, 100), default=0.0, show_default=True,
              help="Temperature; 0 takes the likeliest token.")  # fmt: skip
@click.option("--top-k", type=click.IntRange(0, 1024), default=0, help="0: off.")
@click.option("--top-p", type=Finite(0, 1), default=0.95, show_default=True)
@click.option("--min-p", type=Finite(0, 1), default=0.0, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=1234, show_default=True,
              help="Of sampling and of the generated prompt.")  # fmt: skip
@_file("--csv", text="CSV file; '-' is standard output.  [default: '-']")
@_file("--parquet", text="Parquet file with raw seconds and the environment.")
@_file("--plot", text="SVG or PNG file.")
@_file("--out", text="Folder for rows.jsonl, sweep.csv, sweep.parquet.", metavar="DIR")
@click.option("--resume", is_flag=True, help="Go on with the sweep that these files hold.")
@click.option("--retry-failed", is_flag=True, help="With --resume: measure failed rows again.")
@click.option("--force", is_flag=True, help="Start over; old files are kept as NAME.old-TIME.")
@click.option("--dry-run", is_flag=True, help="Print plan, memory and least time, then end.")
@click.option("--predict", multiple=True, metavar="MACHINE",
              help="Print what memory allows on gb10, h200, ...; repeatable.")  # fmt: skip
@click.option("--row-timeout", type=Finite(1), metavar="SECONDS",
              help="Longest a prefill or decode may take.  [default: 10 times the pace so far]",
              )  # fmt: skip
@click.option("--allow-network-fs", is_flag=True, help="Write results to NFS and its kin.")
@click.pass_context
def main(ctx: click.Context, **options: Any) -> None:
    """Measure prefill and decode speed at growing context lengths.

    Results go to a journal that survives crashes (beside the CSV, ending .jsonl) and are
    published from it as CSV and Parquet.
    """
    if ctx.invoked_subcommand is not None:
        given = [name for name in options if _is_given(ctx, name)]
        if given:
            raise click.UsageError(
                f"--{given[0].replace('_', '-')}: expected behind no command, "
                f"found before {ctx.invoked_subcommand!r}"
            )
        return
    from ds4bench.sweep.progress import printable

    try:
        request = build_request(ctx, options)
        from ds4bench.sweep.run import execute

        code = execute(request)
    except EngineError as error:
        click.echo(getattr(error, "worker_trace", ""), err=True, nl=False)
        click.echo(f"error: {printable(str(error))}", err=True)
        code = error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = exits.ERROR
    sys.exit(code)


def _is_given(ctx: click.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def build_request(ctx: click.Context, options: dict[str, Any]) -> Any:
    """Validate everything that needs no model.

    Raises
    ------
    OptionError, TextError
        Naming the option.
    """
    from ds4bench.plan import Sampling, SweepPlan
    from ds4bench.sweep.run import Request
    from ds4bench.telemetry.machines import machine

    backend = options["backend"]
    if backend not in ("cpu", "cuda"):
        raise OptionError(f"--backend: expected cpu or cuda, found {backend!r}")
    for name in DEVICE_OPTIONS:
        if backend == "cpu" and _is_given(ctx, name):
            option = name.replace("_", "-")
            raise OptionError(f"--{option}: expected with --backend cuda, found cpu")
    activations = options["activations"]
    if options["quality"]:
        if _is_given(ctx, "activations") and activations != "f32":
            raise OptionError("--quality: expected --activations f32, found int8")
        activations = "f32"
    if options["retry_failed"] and not options["resume"]:
        raise OptionError("--retry-failed: expected --resume, found none")
    if options["resume"] and options["force"]:
        raise OptionError("--resume: expected without --force, found both")
    if options["chat_prompt_file"] is None and _is_given(ctx, "system"):
        raise OptionError("--system: expected --chat-prompt-file, found none")
    modes = _modes(options["modes"])
    for name in ("mtp", "mtp_draft", "mtp_adaptive", "mtp_margin"):
        if modes == ("plain",) and _is_given(ctx, name):
            raise OptionError(
                f"--{name.replace('_', '-')}: expected a speculative --mode that uses it, "
                "found plain only"
            )
    machines = tuple(machine(name) for name in options["predict"])
    outputs = _outputs(options)
    if options["resume"] and outputs.journal is None:
        raise OptionError("--resume: expected --csv, --parquet or --out to go on with, found none")
    plan_options = dict(
        sampling=Sampling(
            options["temp"], options["top_k"], options["top_p"], options["min_p"], options["seed"]
        ),
        mtp_draft=options["mtp_draft"],
        mtp_adaptive=options["mtp_adaptive"],
        mtp_margin=options["mtp_margin"],
        modes=modes,
        ctx_start=options["ctx_start"],
        ctx_max=options["ctx_max"],
        ctx_alloc=options["ctx_alloc"],
        step_incr=options["step_incr"],
        step_mul=options["step_mul"],
        gen_tokens=options["gen_tokens"],
        repeats=options["repeats"],
        threads=options["threads"],
        activations=activations,
        kv=options["kv"],
        repack=options["repack"],
        warm_weights=options["warm_weights"],
        backend=backend,
        **{name: options[name] for name in DEVICE_OPTIONS},
    )
    # Numbers first: they cost nothing, files may.
    SweepPlan(model=DEFAULT_MODEL, **plan_options)
    prompt = _prompt(options)
    model, mtp = _models(options, modes)
    plan = SweepPlan(model=model, mtp=mtp, prompt=prompt, **plan_options)
    return Request(
        plan,
        outputs,
        resume=options["resume"],
        force=options["force"],
        retry_failed=options["retry_failed"],
        dry_run=options["dry_run"],
        row_timeout_s=options["row_timeout"],
        allow_network_fs=options["allow_network_fs"],
        predict=machines,
    )


def _modes(names: tuple[str, ...]) -> tuple[str, ...]:
    if "all" in names:
        if len(names) > 1:
            raise OptionError("--mode: expected 'all' alone, found other modes beside it")
        return MODES
    return names or ("plain",)


def _prompt(options: dict[str, Any]) -> Any:
    from ds4bench.plan import Prompt

    plain, chat = options["prompt_file"], options["chat_prompt_file"]
    if plain is not None and chat is not None:
        raise OptionError("--prompt-file: expected one prompt, found --chat-prompt-file too")
    if plain is None and chat is None:
        if options["repeat_prompt"]:
            raise OptionError("--repeat-prompt: expected --prompt-file, found none")
        click.echo(f"prompt: generated text, seed {options['seed']}", err=True)
        return Prompt(seed=options["seed"])
    from engine.text.files import read_text

    option, path = ("--prompt-file", plain) if chat is None else ("--chat-prompt-file", chat)
    with contextlib.suppress(OSError):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise OptionError(f"{option}: expected a regular file, found {str(path)!r}")
    text = read_text(path, option)
    if not text:
        raise OptionError(f"{option}: expected text, found an empty file {str(path)!r}")
    return Prompt(
        path=path,
        text=text,
        chat=chat is not None,
        system=options["system"],
        repeat=options["repeat_prompt"],
        seed=options["seed"],
    )


def _models(options: dict[str, Any], modes: tuple[str, ...]) -> tuple[Path, Path | None]:
    model, mtp, recipe = options["model"], options["mtp"], options["nano"]
    if model is not None and recipe is not None:
        raise OptionError("--nano: expected without -m, found both")
    drafts = any(mode != "plain" for mode in modes)
    if mtp is None and drafts and uses_bundled(model, recipe):
        mtp = bundled_model("mtp", recipe or RECIPES[0]).path
    if model is None:
        model = default_model(lambda line: click.echo(line, err=True), recipe)
    return model, mtp


def _outputs(options: dict[str, Any]) -> Any:
    from ds4bench.sweep.run import Outputs

    csv, parquet, plot, out = (options[name] for name in ("csv", "parquet", "plot", "out"))
    for name in ("csv", "parquet", "plot", "out"):
        if options[name] is not None and not options[name].name:
            raise OptionError(f"--{name}: expected a file name, found {str(options[name])!r}")
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


def _distinct(outputs: Any) -> Any:
    seen: dict[str, str] = {}
    for option, path in outputs.named():
        real = os.path.realpath(path)
        if real in seen:
            raise OptionError(
                f"{option}: expected a file of its own, found that of {seen[real]}: {str(path)!r}"
            )
        seen[real] = option
    return outputs


if __name__ == "__main__":
    main()
