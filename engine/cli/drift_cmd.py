"""`ds4 drift A B`: teacher-forces two settings over one text and says where and why they part."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.errors import OptionError
from engine.tooling.options.group import option
from engine.tooling.options.model import MODEL
from engine.tooling.options.types import Whole
from engine.tooling.program import Command

if TYPE_CHECKING:
    from engine.tooling.diagnose.drift import DriftReport, Side

KEYS = ("model", "backend", "threads", "activations", "kv", "repack", "rows")


def parse_side(text: str, default: Path | None) -> tuple[dict[str, Any], int | None]:
    """Engine options and rows per pass of one side.

    Parameters
    ----------
    text : str
        Comma-separated ``key=value``; a part without '=' is the model file.
    default : Path or None
        Model of a side that names none.

    Raises
    ------
    OptionError
        If a key is unknown or a number is none.
    """
    options: dict[str, Any] = {"path": default}
    rows = None
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            key, value = "model", part
        if key not in KEYS:
            raise OptionError(f"side {text!r}: expected one of {', '.join(KEYS)}, found {key!r}")
        if key in ("threads", "rows"):
            if not value.isdecimal() or int(value) < 1:
                raise OptionError(f"side {text!r}: expected {key} of 1 or more, found {value!r}")
            if key == "rows":
                rows = int(value)
            else:
                options["threads"] = int(value)
        elif key == "model":
            options["path"] = Path(value)
        else:
            options[key] = value
    return options, rows


@click.command("drift", cls=Command)
@click.argument("a")
@click.argument("b")
@MODEL.only("model")
@option(
    "--prompt-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="UTF-8 text to compare on.",
    default_text="generated text",
)
@option(
    "--tokens",
    "tokens_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Token ids, separated by white space, instead of text.",
)
@option("-n", "n_tokens", type=Whole(1, 2**31 - 1), default=256,
        help="Tokens of the text to compare on.")  # fmt: skip
@option("--no-force", is_flag=True, help="Skip the causal test (the second forced run).")
@option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the findings as JSON.",
)
@option(
    "--plot",
    "plot_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw growth by layer, SVG or PNG.",
)
def drift_command(
    a: str,
    b: str,
    model: Path | None,
    prompt_file: Path | None,
    tokens_file: Path | None,
    n_tokens: int,
    no_force: bool,
    json_path: Path | None,
    plot_path: Path | None,
) -> None:
    """Find where two runs of one text part.

    A and B are settings such as `activations=f32,kv=f32,threads=1,rows=1` or a model file, or both
    (`model.gguf,rows=3`). rows is the number of tokens per pass: 1 is plain decoding, 2 to 5 what
    verification of drafts does, more is prefill.

    Reports the noise floor (A against itself), the first intermediate result that differs, the
    first changed decision with its margin, the first changed token, growth by layer, and what
    remains when A's experts are forced on B. Whether the runs are equal or not, the exit status
    is 0.
    """
    from engine.tooling.results.publish import check_output, publish_bytes

    sides = [parse_side(text, model) for text in (a, b)]
    for path, name in ((json_path, "--json"), (plot_path, "--plot")):
        if path is not None:
            check_output(path, name, replace=True)
    if plot_path is not None and plot_path.suffix not in (".svg", ".png"):
        raise OptionError(
            f"--plot: expected a name ending in .svg or .png, found {str(plot_path)!r}"
        )
    report = _run(sides, prompt_file, tokens_file, n_tokens, not no_force)
    if json_path is not None:
        text = json.dumps(report.to_json(), indent=1, allow_nan=False)
        publish_bytes(json_path, text.encode())
    if plot_path is not None:
        from engine.tooling.diagnose.drift_plot import draw

        publish_bytes(plot_path, draw(report, plot_path.suffix[1:], a, b))
    show(report, a, b)


def _run(
    sides: list[tuple[dict[str, Any], int | None]],
    prompt_file: Path | None,
    tokens_file: Path | None,
    n_tokens: int,
    force: bool,
) -> DriftReport:
    from engine.engine import open_engine
    from engine.options import EngineOptions
    from engine.tooling.diagnose.drift import BLOCK, Side, compare

    if any(options["path"] is None for options, _ in sides):
        from engine.tooling.options.model import default_model

        path = default_model(lambda line: click.echo(line, err=True))
        for options, _ in sides:
            options["path"] = options["path"] or path
    with contextlib.ExitStack() as stack:
        opened: dict[EngineOptions, Any] = {}
        compared: list[Side] = []
        for options, rows in sides:
            wanted = EngineOptions(**options)
            if wanted not in opened:
                opened[wanted] = stack.enter_context(open_engine(wanted))
            compared.append(Side(opened[wanted], rows or BLOCK))
        tokens = _tokens(compared[0].engine, prompt_file, tokens_file, n_tokens)
        return compare(compared[0], compared[1], tokens, force=force)


def _tokens(
    engine: Any, prompt_file: Path | None, tokens_file: Path | None, n_tokens: int
) -> list[int]:
    if tokens_file is not None:
        from engine.cli.logits_cmd import read_ids

        tokens = read_ids(tokens_file)
    else:
        if prompt_file is not None:
            from engine.text.files import read_text

            text = read_text(prompt_file, "--prompt-file")
        else:
            from engine.nano import prose

            text = prose.text(0, 8 * n_tokens)
        tokens = list(engine.tokenizer.encode(text).ids)
    if len(tokens) < n_tokens:
        raise OptionError(f"-n: expected at most the text's {len(tokens)} tokens, found {n_tokens}")
    return tokens[:n_tokens]


def show(report: DriftReport, a: str, b: str) -> None:
    """Print the findings as a table."""
    from rich.console import Console
    from rich.table import Table

    def row(item: Any, *columns: str) -> str:
        if item is None:
            return "none"
        values = dataclasses.asdict(item)
        return ", ".join(
            f"{c} {values[c]:.3g}" if isinstance(values[c], float) else f"{c} {values[c]}"
            for c in columns
            if values[c] is not None
        )

    table = Table(title=f"{a or 'default'}  against  {b or 'default'}", show_header=False)
    table.add_row("tokens", str(report.n_tokens))
    table.add_row("noise floor (A against A)", f"{report.self_noise:.3g}")
    table.add_row(
        "first difference",
        row(report.first_difference, "tap", "layer", "position", "max_abs", "relative_rms"),
    )
    table.add_row(
        "first flip",
        row(report.first_flip, "kind", "layer", "position", "margin", "local", "near_tie"),
    )
    table.add_row(
        "first changed token",
        row(report.first_argmax, "position", "token_a", "token_b", "gap", "max_abs"),
    )
    flips = ", ".join(f"{kind} {n}" for kind, n in report.flips.items()) or "none"
    table.add_row("rows with flips", flips)
    table.add_row("changed tokens", f"{report.n_argmax} of {report.n_tokens}")
    table.add_row("logits rms", f"{report.mean_rms:.4g}")
    if report.forced_rms is not None:
        table.add_row("logits rms with A's experts on B", f"{report.forced_rms:.4g}")
    console = Console()
    console.print(table)
    growth = [g for g in report.growth if g is not None]
    if any(growth):
        console.print("relative rms by layer before the first flip:")
        console.print("  " + "  ".join(f"{i}: {g:.2g}" for i, g in enumerate(growth)))
