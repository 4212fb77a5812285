"""`ds4 make-model`: writes a model with random weights, and its draft block on request."""

from __future__ import annotations

from pathlib import Path

import click

from engine.errors import OptionError, StoreError
from engine.tooling.options.group import option
from engine.tooling.options.sampling import MAX_SEED
from engine.tooling.options.types import OneOf, Whole
from engine.tooling.program import Command


@click.command("make-model", cls=Command)
@option(
    "--shape",
    "shape_name",
    required=True,
    metavar="NAME",
    help="Shape: nano, micro, tiny, tiny-wide, mid, or flash-N-layers with N from 1 to 43.",
)
@option(
    "--recipe",
    type=OneOf(
        ["f32", "f16", "q8_0", "q4", "iq2", "q4_0", "q4_1", "q5_0", "q5_1", "tq1_0", "tq2_0"]
    ),
    default="iq2",
    help="Storage formats; iq2 and q4 are the published files' recipes.",
)
@option("--seed", type=Whole(0, MAX_SEED), default=0, help="Seed of the weights.")
@option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="GGUF file to write.",
)
@option(
    "--mtp",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the draft block to this file.",
)
@option(
    "--layout",
    type=OneOf(["antirez", "llama"]),
    default="antirez",
    help="Formats and metadata of the published Flash files, or of llama.cpp's converter.",
)
@option(
    "--quick",
    is_flag=True,
    help="Large tensors repeat a little quantised data: full size in seconds, for speed alone.",
)
@option("--force", is_flag=True, help="Replace existing files.")
def make_model_command(
    shape_name: str,
    recipe: str,
    seed: int,
    out: Path,
    mtp: Path | None,
    layout: str,
    quick: bool,
    force: bool,
) -> None:
    """Write a deepseek4 model with random weights.

    Every mechanism of the architecture acts in it; equal options give equal bytes.
    """
    try:
        _make(shape_name, recipe, seed, out, mtp, layout, quick, force)
    except OSError as error:
        raise StoreError(f"{out}: expected to write it, found {error.strerror or error}") from None


def _make(
    shape_name: str,
    recipe: str,
    seed: int,
    out: Path,
    mtp: Path | None,
    layout: str,
    quick: bool,
    force: bool,
) -> None:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
    )

    from engine.models.shapes import named_shape
    from engine.models.write import check_target, write_model

    shape = named_shape(shape_name)
    targets = [(out, False)] if mtp is None else [(out, False), (mtp, True)]
    if mtp is not None and mtp.resolve() == out.resolve():
        raise OptionError("--mtp: expected another file than --out, found the same")
    for path, _ in targets:
        check_target(path, force)
    console = Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    for path, draft in targets:
        with bars:
            task = bars.add_task(path.name, total=None)

            def advance(_: str, done: int, total: int, task: TaskID = task) -> None:
                bars.update(task, completed=done, total=total)

            model = write_model(
                path,
                shape,
                recipe,
                seed,
                layout,
                draft=draft,
                force=force,
                quick=quick,
                progress=advance,
            )
            bars.remove_task(task)
        click.echo(
            f"{model.path}  {model.n_bytes} bytes  {model.n_params} parameters"
            f"  sha256 {model.sha256 or 'not computed'}"
        )
