"""Options for a server to measure in place of the engine, and which others say nothing to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from engine.errors import OptionError
from engine.tooling.openai.client import check_extra
from engine.tooling.options.group import OptionGroup
from engine.tooling.options.types import OneOf

if TYPE_CHECKING:
    from ds4bench.server.plan import ServerOptions

# What was chosen, as soon as the limit of a reply is known.
Chosen = Callable[["float | None"], "tuple[ServerOptions, tuple[int, ...], tuple[str, ...]]"]
# Without --base-url these say nothing.
SERVER_ONLY = (
    "api",
    "api_model",
    "api_key_env",
    "concurrency",
    "cache",
    "extra_body",
)
# With it, these say nothing to a server.
ENGINE_ONLY = (
    *("model", "nano", "warm_weights", "check_values", "mtp", "mtp_draft", "mtp_adaptive"),
    *("mtp_margin", "threads", "activations", "kv", "repack", "backend", "launch", "residency"),
    *("residency_gib", "device", "predict", "ctx_alloc", "chat_prompt_file", "quality"),
)


def _parse(values: dict[str, Any]) -> Chosen:
    def chosen(
        reply_timeout_s: float | None,
    ) -> tuple[ServerOptions, tuple[int, ...], tuple[str, ...]]:
        from ds4bench.server.plan import PREFIXES, REPLY_TIMEOUT_S, ServerOptions

        options = ServerOptions(
            base_url=values["base_url"].rstrip("/"),
            api=values["api"],
            model=values["api_model"] or "",
            key_env=values["api_key_env"],
            extra_body=_extra_body(values["extra_body"]),
            reply_timeout_s=reply_timeout_s or REPLY_TIMEOUT_S,
        )
        return options, _users(values["concurrency"]), PREFIXES[values["cache"]]

    return chosen


def _users(text: str) -> tuple[int, ...]:
    from ds4bench.server.plan import MAX_USERS

    users = []
    for item in text.split(","):
        word = item.strip()
        if not (word.isascii() and word.isdigit() and 1 <= int(word) <= MAX_USERS):
            raise OptionError(
                f"--concurrency: expected numbers of 1 to {MAX_USERS} such as 1,2,4, found {item!r}"
            )
        users.append(int(word))
    if len(set(users)) != len(users):
        raise OptionError(f"--concurrency: expected each number once, found {text!r}")
    return tuple(users)


def _extra_body(text: str | None) -> dict[str, object]:
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        kind = "none" if found is None else type(found).__name__
        raise OptionError(f"--extra-body: expected a JSON object, found {kind}")
    check_extra(found)
    return found


SERVER: OptionGroup[Chosen] = OptionGroup(
    "Server",
    (
        (
            ("--base-url",),
            {
                "metavar": "URL",
                "help": "Measure an OpenAI-compatible server in place of our engine, e.g. "
                "http://127.0.0.1:8000/v1 (extra 'remote').",
            },
        ),
        (
            ("--api",),
            {
                "type": OneOf(("completions", "chat")),
                "default": "completions",
                "help": "Send the prompt as text, or as one user turn.",
            },
        ),
        (
            ("--api-model",),
            {
                "metavar": "NAME",
                "help": "Model of the server.",
                "default_text": "the first that it lists",
            },
        ),
        (
            ("--api-key-env",),
            {
                "metavar": "VARIABLE",
                "default": "OPENAI_API_KEY",
                "help": "Environment variable that holds the key.",
            },
        ),
        (
            ("--concurrency",),
            {
                "metavar": "N,...",
                "default": "1",
                "help": "Requests side by side; each number has rows of its own.",
            },
        ),
        (
            ("--cache",),
            {
                "type": OneOf(("cold", "warm", "both")),
                "default": "cold",
                "help": "Whether the server evaluates whole prompts, or finds the last context "
                "length's in its prefix cache.",
            },
        ),
        (
            ("--extra-body",),
            {
                "metavar": "JSON",
                "help": "Fields of every request besides ours, as an object; a null leaves out "
                "one of ours.",
            },
        ),
    ),
    _parse,
)


def refuse_idle(ctx: click.Context, values: dict[str, Any]) -> None:
    """Refuse options of the command line that nothing would listen to.

    Raises
    ------
    OptionError
        Naming the option.
    """
    remote = values["base_url"] is not None
    for name in ENGINE_ONLY if remote else SERVER_ONLY:
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = "--" + name.replace("_", "-")
            if remote:
                raise OptionError(f"{option}: expected without --base-url, found both")
            raise OptionError(f"{option}: expected with --base-url, found without")
