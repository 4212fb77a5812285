"""The options of `ds4-eval run`; what they mean together is checked in `ds4eval.commands.run`.

Nothing here imports numba, numpy or the engine; --help and bad options must not pay for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from engine.errors import OptionError
from engine.models.bundled import RECIPES as NANO_RECIPES
from engine.options import ACTIVATIONS, BACKENDS, KV_MODES, MODES, REPACK
from engine.tooling.options.finite import Finite

EPILOG = (
    "Exit status: 0 complete and within the thresholds, 1 a threshold or a regression failed (or "
    "with --strict-exit an answer is wrong), 2 bad option, 3 data or model missing or damaged, "
    "4 the engine failed, 5 incomplete or results cannot be written, 130 interrupted after saving."
)


def _last_wins(key: str, value: Any) -> Any:
    """Callback of a flag of which the last one on the line counts."""

    def take(ctx: click.Context, param: click.Parameter, given: Any) -> None:
        if given:
            ctx.meta[key] = value if value is not None else given

    return take


def _flag(name: str, key: str, value: str, text: str) -> Any:
    return click.option(
        name, is_flag=True, expose_value=False, callback=_last_wins(key, value), help=text
    )


def _count(*names: str, default: int | None = None, text: str, most: int = 2**31 - 1) -> Any:
    return click.option(
        *names,
        type=click.IntRange(1, most),
        default=default,
        show_default=default is not None,
        help=text,
    )


def _path(*names: str, text: str, **more: Any) -> Any:
    return click.option(*names, type=click.Path(path_type=Path), help=text, **more)


RUN_OPTIONS = (
    _path("-m", "--model", text="GGUF file [default: ./ds4flash.gguf, else the bundled model]."),
    click.option(
        "--nano",
        type=click.Choice(NANO_RECIPES),
        help="Bundled model of this recipe [default: iq2, without -m].",
    ),
    _path("--mtp", text="GGUF file with the MTP block, for --mode mtp-*."),
    click.option(
        "--backend",
        metavar="NAME",
        expose_value=False,
        callback=_last_wins("backend", None),
        help=f"What computes: {', '.join(BACKENDS)} [default: cpu].",
    ),
    _flag("--cpu", "backend", "cpu", "Same as --backend cpu."),
    _flag("--cuda", "backend", "cuda", "Same as --backend cuda."),
    _flag("--metal", "backend", "metal", "Same as --backend metal."),
    _count("-t", "--threads", text="Worker threads [default: every usable core].", most=1024),
    click.option("--quality", is_flag=True, help="Exact arithmetic: --activations f32."),
    click.option("--activations", type=click.Choice(ACTIVATIONS), help="[default: int8]"),
    click.option("--kv", type=click.Choice(KV_MODES), default="official", show_default=True),
    click.option("--repack", type=click.Choice(REPACK), default="auto", show_default=True),
    click.option("--warm-weights", is_flag=True, help="Read the model file once before the run."),
    _path("--chdir", text="Change to this folder before any file is looked up."),
    click.option(
        "--mode",
        type=click.Choice(MODES),
        default="plain",
        show_default=True,
        help="Decode mode; the mtp ones need an MTP block.",
    ),
    _count("--draft", default=1, text="Tokens drafted per step in mtp modes.", most=4),
    click.option("--suite", metavar="NAME", help="See `ds4-eval list` [default: what data allow]."),
    click.option(
        "--dataset",
        "datasets",
        multiple=True,
        metavar="NAME=PATH",
        help="Your copy of a data set; repeatable.",
    ),
    click.option("--choice-seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True,
                 help="Of the order in which GPQA's choices are shown."),
    click.option("--no-errata", is_flag=True, help="Leave known errors of the data in."),
    click.option("--ids", multiple=True, metavar="ID,...",
                 help="Ids, source/id, numbers or ranges such as 3-7."),
    click.option("--filter", "filters", multiple=True, metavar="FIELD=PATTERN",
                 help="Of id, source, kind, domain or a stratum; != excludes; repeatable."),
    click.option("--offset", type=click.IntRange(0), default=0, help="Leave out the first N."),
    _count("--limit", text="At most N questions."),
    _count("--questions", text="The first N questions; an error if there are fewer."),
    _count("--repeats", default=1, text="Times that every question is asked.", most=10_000),
    _count("-n", "--tokens", text="Most tokens of a reply [default: 16000; nano suite: 256].",
           most=1_000_000),
    click.option("--temp", type=Finite(0, 100), default=0.0, show_default=True,
                 help="0 takes the likeliest token."),
    click.option("--top-p", type=Finite(0, 1), default=1.0, show_default=True),
    click.option("--min-p", type=Finite(0, 1), default=0.05, show_default=True),
    click.option("--top-k", type=click.IntRange(0, 1024), default=0, show_default=True,
                 help="0 is off."),
    click.option("--seed", type=click.IntRange(1, 2**64 - 1),
                 help="Of sampling [default: that of the run folder, else random and printed]."),
    _flag("--think", "think", "high", "Think before answering (the default)."),
    _flag("--nothink", "think", "none", "Answer without a think block."),
    _flag("--think-max", "think", "max", "Maximum effort; needs 393216 tokens of context."),
    _count("--soft-limit-reply-budget", text="Tokens left from which a likely close of thinking "
           "is taken [default: 1024]."),
    _count("--hard-limit-reply-budget", text="Tokens left at which thinking is closed "
           "[default: 512]."),
    _count("--soft-limit-think-close-rank", default=3, text="What likely means: among the N best."),
    click.option("--close-cue", default="", metavar="TEXT",
                 help="Text put behind a forced close of thinking [default: none]."),
    _path("--out", text="Run folder; a run in it is continued.", metavar="DIR"),
    click.option("--force", is_flag=True, help="Start over; the old run is kept as NAME.old-TIME."),
    click.option("--allow-network-fs", is_flag=True, help="Write results to NFS and its kin."),
    _path("--trace", text="Also write the text trace of the C program ds4-eval (replaced)."),
    click.option("--plain", is_flag=True, help="Lines of text in place of the screen."),
    _count("--pause-ms", default=350, text="Screen: rest after each verdict."),
    click.option("--dry-run", is_flag=True, help="Say what would be asked and what it needs."),
    _count("--jobs", default=1, text="Questions asked side by side, a process (or, with "
           "--base-url, a connection) each.", most=4096),
    click.option("--ray", metavar="ADDRESS|local", help="Ask on a Ray cluster (extra 'ray')."),
    click.option("--base-url", metavar="URL",
                 help="Ask an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1 "
                 "(extra 'remote')."),
    click.option("--api", type=click.Choice(("chat", "completions")), default="chat",
                 show_default=True, help="With --base-url: messages, or our rendered prompt."),
    click.option("--api-model", metavar="NAME",
                 help="With --base-url [default: the first listed]."),
    click.option("--api-key-env", metavar="VARIABLE", default="OPENAI_API_KEY", show_default=True,
                 help="Environment variable that holds the key."),
    click.option("--timeout", type=Finite(1), default=3600.0, show_default=True,
                 help="With --base-url: seconds for one reply."),
    click.option("--fail-under", type=Finite(0, 100), metavar="PERCENT",
                 help="Exit with 1 below this score."),
    _path("--baseline", text="Run folder to hold the score against, on shared questions."),
    click.option("--max-regression", type=Finite(0, 100), metavar="POINTS", default=None,
                 help="With --baseline: exit with 1 if the score is lower by more "
                 "[default: 0]."),
    click.option("--max-truncated", type=Finite(0, 100), metavar="PERCENT",
                 help="Exit with 5 if more replies were cut by the budget."),
    click.option("--strict-exit", is_flag=True, help="Exit with 1 if any answer is wrong."),
)  # fmt: skip


def run_options(function: Any) -> Any:
    """Decorator: the options of `run`."""
    for option in reversed(RUN_OPTIONS):
        function = option(function)
    return function


def backend_name(ctx: click.Context) -> str:
    """Backend that the last of its options names.

    Raises
    ------
    OptionError
        If this program has none of that name.
    """
    name: str = ctx.meta.get("backend", "cpu")
    if name not in BACKENDS:
        raise OptionError(f"--backend: expected one of {', '.join(BACKENDS)}, found {name!r}")
    return name
