"""`ds4 logits`: logits of a token sequence as .npy, and which experts ran as .npz."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from engine.errors import MemoryBudgetError, OptionError
from engine.gguf.warm import read_through
from engine.tooling.exits import say
from engine.tooling.options.group import option
from engine.tooling.options.kernels import kernel_options
from engine.tooling.options.model import MODEL
from engine.tooling.program import Command

KERNELS = kernel_options()


@click.command("logits", cls=Command)
@option(
    "--tokens",
    "tokens_path",
    type=click.Path(path_type=Path),
    required=True,
    help="Text file of token ids, separated by blanks, line ends or commas, or a JSON list.",
)
@option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The .npy file to write: float32 (n_tokens, n_vocab), or one row for the last token "
    "without --all-positions.",
)
@option("--all-positions", is_flag=True, help="Write a row for every token.")
@option(
    "--routing",
    type=click.Path(path_type=Path),
    help="Also write which experts ran as .npz: ids (n_layer, n_tokens, n_used), and margin "
    "(n_layer, n_tokens), the score of the last chosen expert minus that of the first left out.",
)
@MODEL
@KERNELS
def logits_command(**values: Any) -> None:
    """Write the logits of a token sequence, for comparison with other engines."""
    model, kernels = MODEL.take(values), KERNELS.take(values)
    model.enter_folder()
    options = replace(kernels.engine_options(model.resolve(say)), check_values=model.check_values)
    ids = read_ids(values["tokens_path"])
    out, routing = values["out"], values["routing"]
    from engine.tooling.results.publish import check_output

    check_output(out, "--out", replace=True)
    if routing is not None:
        check_output(routing, "--routing", replace=True)
        if routing.resolve() == out.resolve():
            raise OptionError(f"--routing: expected another file than --out, found {str(out)!r}")

    from engine.engine import check_opening, open_engine
    from engine.tooling.check_values import check_values, shown_reading

    if warning := check_opening(options, len(ids)):
        say(warning)
    if model.warm:
        read_through(options.path)
    options = check_values(options)
    with shown_reading(options) as bar:
        engine = open_engine(options, bar)
    with engine:
        for notice in engine.notices:
            say(notice)
        n_vocab = engine.shape.n_vocab
        for i, token in enumerate(ids):
            if token >= n_vocab:
                raise OptionError(f"--tokens: expected ids below {n_vocab}, found {token} at {i}")
        session = engine.session(len(ids))
        if values["all_positions"] or routing is not None:
            _check_memory(len(ids) * n_vocab * 4)
            logits, routed = session.all_logits(ids, routing=routing is not None)
            if not values["all_positions"]:
                logits = logits[-1:]
        else:
            session.sync(ids)
            logits, routed = session.logits[None], None
        _write(out, routing, logits, routed)


def read_ids(path: Path) -> list[int]:
    """Token ids of a text file, at least one.

    Raises
    ------
    OptionError
        Naming the first item that is not an id.
    """
    from engine.text.files import read_text

    text = read_text(path, "--tokens").strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    items = re.split(r"\s*,\s*|\s+", text.strip()) if text.strip() else []
    if not items:
        raise OptionError(f"--tokens: expected at least one token id, found none in {str(path)!r}")
    ids = []
    for i, item in enumerate(items):
        # More digits than any vocabulary needs; int() of a huge string is slow.
        if re.fullmatch(r"[0-9]{1,9}", item) is None:
            raise OptionError(f"--tokens: expected token ids, found {item[:40]!r} at item {i}")
        ids.append(int(item))
    return ids


def _check_memory(n_bytes: int) -> None:
    import psutil

    free = psutil.virtual_memory().available
    if n_bytes > free:
        raise MemoryBudgetError(
            f"logits: expected at most {free >> 20} MiB of free memory to be needed, "
            f"found {n_bytes >> 20} MiB"
        )


def _write(out: Path, routing: Path | None, logits: Any, routed: Any) -> None:
    import numpy as np

    from engine.tooling.results.publish import publish

    if routing is not None:
        publish(routing, lambda file: np.savez(file, ids=routed.ids, margin=routed.margin))
    publish(out, lambda file: np.save(file, logits))
