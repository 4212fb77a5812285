"""`ds4-eval run`: a command line checked into a request before anything is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from ds4eval.cli import EPILOG, backend_name, run_options
from engine.errors import OptionError

NANO_TOKENS, NANO_SOFT, NANO_HARD = 256, 96, 64


@dataclass(frozen=True, slots=True)
class Remote:
    """A server to ask in place of the engine."""

    base_url: str
    api: str
    model: str | None
    key_env: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Request:
    """A checked command line. Sampling and budgets may be completed by the suite's defaults."""

    values: dict[str, Any] = field(repr=False)
    think: str
    backend: str
    activations: str
    datasets: dict[str, tuple[Path, ...]]
    ids: tuple[str, ...]
    remote: Remote | None

    def __getattr__(self, name: str) -> Any:
        try:
            return object.__getattribute__(self, "values")[name]
        except KeyError:
            raise AttributeError(name) from None


@click.command("run", context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@run_options
@click.pass_context
def run_command(ctx: click.Context, **values: Any) -> int:
    """Ask the questions of a suite and grade the answers."""
    request = check(ctx, values)
    from ds4eval.run.execute import execute

    return execute(request)


def check(ctx: click.Context, values: dict[str, Any]) -> Request:
    """Refuse what needs no file to be refused.

    Raises
    ------
    OptionError
        Naming the option.
    """
    given = click.core.ParameterSource.COMMANDLINE
    activations = values["activations"]
    if values["quality"]:
        if activations == "int8":
            raise OptionError("--quality: expected --activations f32, found int8")
        activations = "f32"
    if values["max_regression"] is not None and values["baseline"] is None:
        raise OptionError("--max-regression: expected --baseline, found none")
    if values["ray"] is not None and values["base_url"] is not None:
        raise OptionError("--ray: expected without --base-url, found both")
    if values["questions"] is not None and values["limit"] is not None:
        raise OptionError("--questions: expected without --limit, found both")
    for name in ("api", "api_model", "api_key_env", "timeout"):
        if values["base_url"] is None and ctx.get_parameter_source(name) is given:
            option = name.replace("_", "-")
            raise OptionError(f"--{option}: expected with --base-url, found without")
    if values["mode"] == "plain" and ctx.get_parameter_source("draft") is given:
        raise OptionError("--draft: expected with an mtp --mode, found plain")
    if values["nano"] is not None and values["model"] is not None:
        raise OptionError("--nano: expected without -m, found both")
    if values["mtp"] is not None and values["mode"] == "plain":
        raise OptionError("--mtp: expected a speculative --mode that uses it, found plain")
    from ds4eval.commands.data_options import parse_datasets

    remote = None
    if values["base_url"] is not None:
        remote = _remote(ctx, values)
    folder = values["chdir"]
    if folder is not None:
        try:
            os.chdir(folder)
        except OSError as error:
            raise OptionError(
                f"--chdir: expected a folder, found {str(folder)!r}: {error.strerror}"
            ) from None
    return Request(
        values=values,
        think=ctx.meta.get("think", "high"),
        backend=backend_name(ctx),
        activations=activations or "int8",
        datasets=parse_datasets(values["datasets"]),
        ids=tuple(part for text in values["ids"] for part in text.split(",") if part),
        remote=remote,
    )


def _remote(ctx: click.Context, values: dict[str, Any]) -> Remote:
    url = values["base_url"]
    if not url.startswith(("http://", "https://")):
        raise OptionError(f"--base-url: expected http:// or https://, found {url!r}")
    if values["model"] is not None and values["api"] == "chat":
        raise OptionError("--model: expected without --base-url (see --api-model), found both")
    if values["nano"] is not None:
        raise OptionError("--nano: expected without --base-url, found both")
    if values["mode"] != "plain":
        raise OptionError(f"--mode: expected plain with --base-url, found {values['mode']}")
    for name in ("close_cue", "soft_limit_reply_budget", "hard_limit_reply_budget"):
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = name.replace("_", "-")
            raise OptionError(
                f"--{option}: expected without --base-url: a server closes no think block"
            )
    return Remote(
        url.rstrip("/"), values["api"], values["api_model"], values["api_key_env"],
        values["timeout"],
    )  # fmt: skip
