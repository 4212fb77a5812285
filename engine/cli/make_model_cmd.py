"""`ds4 make-model`: writes a model with random weights, and its drafters on request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.errors import OptionError, StoreError
from engine.tooling.options.group import option
from engine.tooling.options.sampling import MAX_SEED
from engine.tooling.options.types import OneOf, Whole
from engine.tooling.program import Command

if TYPE_CHECKING:
    from engine.models.write import WrittenModel


@click.command("make-model", cls=Command)
@option(
    "--shape",
    "shape_name",
    section="Model",
    required=True,
    metavar="NAME",
    help="Shape: nano, micro, tiny, tiny-wide, mid, or flash-N-layers with N from 1 to 43.",
)
@option(
    "--recipe",
    section="Model",
    type=OneOf(
        ["f32", "f16", "q8_0", "q4", "iq2", "q4_0", "q4_1", "q5_0", "q5_1", "tq1_0", "tq2_0"]
    ),
    default="iq2",
    help="Storage formats; iq2 and q4 are the published files' recipes.",
)
@option("--seed", section="Model", type=Whole(0, MAX_SEED), default=0, help="Seed of the weights.")
@option(
    "--out",
    section="Files",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="GGUF file to write.",
)
@option(
    "--mtp",
    section="Files",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the draft block to this file.",
)
@option(
    "--dspark",
    section="Files",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write a DSpark drafter to this file.",
)
@option(
    "--dspark-layout",
    section="Form",
    type=OneOf(["A", "B", "C"]),
    default="A",
    help="Whose names and keys it has: antirez's, bleysg's, or llama.cpp's.",
)
@option(
    "--combined",
    section="Form",
    is_flag=True,
    help="The drafter's file holds the trunk as well.",
)
@option(
    "--layout",
    section="Form",
    type=OneOf(["antirez", "llama"]),
    default="antirez",
    help="Formats and metadata of the published Flash files, or of llama.cpp's converter.",
)
@option(
    "--quick",
    section="Model",
    is_flag=True,
    help="Large tensors repeat a little quantised data: full size in seconds, for speed alone.",
)
@option("--force", section="Files", is_flag=True, help="Replace existing files.")
def make_model_command(**values: Any) -> None:
    """Write a deepseek4 model with random weights.

    Every mechanism of the architecture acts in it; equal options give equal bytes.
    """
    out: Path = values["out"]
    try:
        _make(values)
    except OSError as error:
        raise StoreError(f"{out}: expected to write it, found {error.strerror or error}") from None


def _make(values: dict[str, Any]) -> None:
    from engine.models.shapes import named_shape
    from engine.models.write import check_target, write_model
    from engine.models.write_dspark import write_dspark

    shape = named_shape(values["shape_name"])
    out, mtp, dspark = values["out"], values["mtp"], values["dspark"]
    force, recipe, seed = values["force"], values["recipe"], values["seed"]
    if dspark is None:
        for option, given in (
            ("--dspark-layout", values["dspark_layout"] != "A"),
            ("--combined", values["combined"]),
        ):
            if given:
                raise OptionError(f"{option}: expected --dspark FILE, found none")
    taken = {out.resolve(): "--out"}
    for option, path in (("--mtp", mtp), ("--dspark", dspark)):
        if path is not None and (other := taken.get(path.resolve())):
            raise OptionError(f"{option}: expected another file than {other}, found the same")
        if path is not None:
            taken[path.resolve()] = option
    for path in (out, mtp, dspark):
        if path is not None:
            check_target(path, force)
    common = {"force": force, "quick": values["quick"]}
    for path, draft in ((out, False), (mtp, True)):
        if path is not None:
            with _Bar(path.name) as advance:
                made = write_model(
                    path,
                    shape,
                    recipe,
                    seed,
                    values["layout"],
                    draft=draft,
                    progress=advance,
                    **common,
                )
            _tell(made)
    if dspark is not None:
        with _Bar(dspark.name) as advance:
            made = write_dspark(
                dspark,
                shape,
                recipe,
                seed,
                values["dspark_layout"],
                combined=values["combined"],
                progress=advance,
                **common,
            )
        _tell(made)


def _tell(model: WrittenModel) -> None:
    click.echo(
        f"{model.path}  {model.n_bytes} bytes  {model.n_params} parameters"
        f"  sha256 {model.sha256 or 'not computed'}"
    )


class _Bar:
    """A bar on a terminal while a file is written; entering gives what tells it of progress."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bars.add_task(name, total=None)

    def __enter__(self) -> Callable[[str, int, int], None]:
        self._bars.__enter__()
        return lambda _, done, total: self._bars.update(self._task, completed=done, total=total)

    def __exit__(self, *error: Any) -> None:
        self._bars.__exit__(*error)
