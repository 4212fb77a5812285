"""`ds4-eval run`: makes a command line into a checked request before anything is loaded."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from ds4eval.commands.data_options import parse_datasets
from ds4eval.commands.run_options import KERNELS, SAMPLING, SPECULATION, run_options
from ds4eval.documents import Document
from ds4eval.recipes import applied
from ds4eval.request import (
    DataOptions,
    GateOptions,
    ModelOptions,
    OutputOptions,
    ReplyOptions,
    Request,
    ServerOptions,
    check_request,
)
from engine.errors import OptionError
from engine.tooling.openai.client import check_extra
from engine.tooling.options.model import MODEL, ModelChoice
from engine.tooling.options.thinking import THINKING
from engine.tooling.program import Command

# Without --base-url these say nothing; with it, the others say nothing to a server.
SERVER_ONLY = (
    "api",
    "api_model",
    "api_key_env",
    "reply_timeout",
    "max_retries",
    "extra_body",
    "server_moved",
)
ENGINE_ONLY = ("close_cue", "soft_limit_reply_budget", "hard_limit_reply_budget")


@click.command("run", cls=Command)
@run_options
@click.pass_context
def run_command(ctx: click.Context, /, **values: Any) -> int:
    """Ask the questions of a suite and grade the answers."""
    model = MODEL.take(values)
    request = parse(ctx, values, model)
    check_request(request)
    model.enter_folder()
    # Everything that asks and grades is loaded here: --help and bad options do not pay for it.
    from ds4eval.run.execute import execute

    return execute(request)


def parse(ctx: click.Context, values: dict[str, Any], model: ModelChoice) -> Request:
    """The request of a command line.

    Parameters
    ----------
    ctx : click.Context
        Knows which options were given.
    values : dict
        The other options by name; those of the shared groups are removed.
    model : ModelChoice

    Raises
    ------
    OptionError
        If an option was given that says nothing beside the others.
    """
    _refuse_idle(ctx, values)
    sampling, thinking = SAMPLING.take(values), THINKING.take(values)
    recipe = applied(values["recipe"], _typed(ctx, {**values, **asdict(sampling)}))
    return Request(
        model=_model(values, model),
        data=DataOptions(
            suite=values["suite"],
            datasets=parse_datasets(values["datasets"]),
            choice_seed=values["choice_seed"],
            errata=not values["no_errata"],
            ids=tuple(part for text in values["ids"] for part in text.split(",") if part),
            filters=values["filters"],
            offset=values["offset"],
            limit=values["limit"],
            questions=values["questions"],
            repeats=int(recipe.value("repeats", values["repeats"])),
        ),
        reply=ReplyOptions(
            think=thinking.mode(values["think"]),
            tokens=values["tokens"],
            soft=values["soft_limit_reply_budget"],
            hard=values["hard_limit_reply_budget"],
            rank=values["soft_limit_think_close_rank"],
            cue=values["close_cue"],
            temp=recipe.value("temp", sampling.temp),
            top_k=int(recipe.value("top_k", sampling.top_k)),
            top_p=recipe.value("top_p", sampling.top_p),
            min_p=recipe.value("min_p", sampling.min_p),
            seed=sampling.seed,
            encoding=thinking.encoding,
            form=recipe.form,
            retry_cut=values["retry_cut"],
        ),
        gates=GateOptions(
            fail_under=values["fail_under"],
            baseline=values["baseline"],
            max_regression=values["max_regression"],
            max_truncated=values["max_truncated"],
            strict_exit=values["strict_exit"],
            headline=values["headline"],
        ),
        output=OutputOptions(
            out=values["out"],
            force=values["force"],
            allow_network_fs=values["allow_network_fs"],
            trace=values["trace"],
            plain=values["plain"],
            pause_s=values["pause_ms"] / 1000,
            close_at_end=values["close_at_end"],
            dry_run=values["dry_run"],
            record_paths=values["record_paths"],
        ),
        recipe=recipe,
    )


def _typed(ctx: click.Context, values: dict[str, Any]) -> dict[str, Any]:
    """Options that stand on the command line, which beat a recipe."""
    return {name: value for name, value in values.items() if _given(ctx, name)}


def _refuse_idle(ctx: click.Context, values: dict[str, Any]) -> None:
    """Refuse options of the command line that nothing would listen to."""
    remote = values["base_url"] is not None
    for name in ENGINE_ONLY if remote else SERVER_ONLY:
        if _given(ctx, name):
            option = "--" + name.replace("_", "-")
            if remote:
                raise OptionError(
                    f"{option}: expected without --base-url: a server closes no think block"
                )
            raise OptionError(f"{option}: expected with --base-url, found without")


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _model(values: dict[str, Any], model: ModelChoice) -> ModelOptions:
    kernels, spec = KERNELS.take(values), SPECULATION.take(values)
    server = None
    if values["base_url"] is not None:
        server = ServerOptions(
            base_url=values["base_url"].rstrip("/"),
            api=values["api"],
            model=values["api_model"],
            key_env=values["api_key_env"],
            reply_timeout_s=values["reply_timeout"],
            max_retries=values["max_retries"],
            extra_body=parse_extra_body(values["extra_body"]),
            moved=values["server_moved"],
        )
    return ModelOptions(
        path=model.path,
        nano=model.recipe,
        mtp=spec.mtp,
        mode=spec.mode,
        draft=spec.draft,
        adaptive=spec.adaptive,
        margin=spec.margin,
        draft_model=spec.draft_model,
        draft_max=spec.draft_max,
        draft_confidence=spec.draft_confidence,
        draft_adaptive=spec.draft_adaptive,
        draft_force=spec.draft_force,
        **kernels.to_dict(),
        devices=kernels.devices,
        warm_weights=model.warm,
        check_values=model.check_values,
        jobs=max(values["jobs"], len(kernels.devices)),
        ray=values["ray"],
        server=server,
    )


def parse_extra_body(text: str | None) -> Document:
    """Fields for every request.

    Raises
    ------
    OptionError
        If the text is no JSON object, or holds numbers that JSON has not.
    """
    if text is None:
        return {}
    try:
        found = json.loads(text)
        json.dumps(found, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"--extra-body: expected a JSON object, found {error}") from None
    if not isinstance(found, dict):
        raise OptionError(f"--extra-body: expected a JSON object, found {type(found).__name__}")
    check_extra(found)
    return found
