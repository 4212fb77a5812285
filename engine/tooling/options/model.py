"""Command-line options that open a model, the same in every program."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from engine.errors import OptionError
from engine.models.bundled import RECIPES as NANO_RECIPES
from engine.models.bundled import bundled_model
from engine.options import (
    ACTIVATIONS,
    BACKENDS,
    KV_MODES,
    LAUNCH,
    REPACK,
    RESIDENCY,
    EngineOptions,
)
from engine.tooling.options.finite import Finite

DEFAULT_MODEL = Path("ds4flash.gguf")

_OPTIONS = (
    click.option(
        "-m",
        "--model",
        type=click.Path(path_type=Path),
        help=f"GGUF file [default: ./{DEFAULT_MODEL}, else the bundled model].",
    ),
    click.option(
        "--nano",
        type=click.Choice(NANO_RECIPES),
        help="Bundled model of this recipe, whatever lies in the folder.  [default: iq2]",
    ),
    click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        default="cpu",
        show_default=True,
        help="What computes.",
    ),
    click.option("--cuda", "backend", flag_value="cuda", help="As --backend cuda."),
    click.option(
        "--launch",
        type=click.Choice(LAUNCH),
        help="CUDA: how a recorded pass is launched.  [default: graph]",
    ),
    click.option(
        "--residency",
        type=click.Choice(RESIDENCY),
        help="CUDA: where weights live; ds4-bench residency prints the plan.  [default: auto]",
    ),
    click.option(
        "--residency-gib",
        type=Finite(0),
        metavar="GIB",
        help="CUDA: most GiB of weights copied to the device.  [default: the plan's]",
    ),
    click.option(
        "--device",
        type=click.IntRange(0, 63),
        help="CUDA: ordinal of the device.  [default: 0]",
    ),
    click.option(
        "-t",
        "--threads",
        type=click.IntRange(1, 1024),
        help="Worker threads [default: every core this process may use].",
    ),
    click.option(
        "--activations",
        type=click.Choice(ACTIVATIONS),
        default="int8",
        show_default=True,
        help="Arithmetic of products with quantised weights.",
    ),
    click.option(
        "--kv",
        type=click.Choice(KV_MODES),
        default="official",
        show_default=True,
        help="How KV rows are kept: as the published model does, or float32.",
    ),
    click.option(
        "--repack",
        type=click.Choice(REPACK),
        default="auto",
        show_default=True,
        help="Interleaved copy of the weights; auto: when it fits in half of the free memory.",
    ),
    click.option(
        "--chdir",
        type=click.Path(path_type=Path),
        help="Change to this folder before any file is looked up.",
    ),
)
_DEVICE = ("launch", "residency", "residency_gib", "device")
_NAMES = (
    "model", "nano", "backend", "threads", "activations", "kv", "repack", "chdir", *_DEVICE
)  # fmt: skip


def model_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: adds the options; the command gets them as keyword arguments."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def take_model_options(
    values: dict[str, Any], say: Callable[[str], None], **fixed: Any
) -> EngineOptions:
    """Engine options from a command's keyword arguments, which are removed from `values`.

    Changes the working directory when --chdir asks for it.

    Parameters
    ----------
    values : dict
        Keyword arguments of a command decorated with `model_options`.
    say : callable
        Gets a line for the user, e.g. which model was chosen in place of a named one.
    fixed
        Further fields of EngineOptions.

    Raises
    ------
    OptionError
        If a value cannot be honoured.
    """
    taken = {name: values.pop(name) for name in _NAMES}
    for name in _DEVICE:
        if taken[name] is None:
            del taken[name]  # the engine's own default
        elif taken["backend"] != "cuda":
            option = name.replace("_", "-")
            raise OptionError(f"--{option}: expected with --backend cuda, found {taken['backend']}")
    folder, path, recipe = taken.pop("chdir"), taken.pop("model"), taken.pop("nano")
    if path is not None and recipe is not None:
        raise OptionError("--nano: expected without -m, found both")
    if folder is not None:
        try:
            os.chdir(folder)
        except OSError as error:
            raise OptionError(
                f"--chdir: expected a folder, found {str(folder)!r}: {error.strerror}"
            ) from None
    if path is None:
        path = default_model(say, recipe)
    return EngineOptions(path=path, **taken, **fixed)


def uses_bundled(model: Path | None, recipe: str | None, folder: Path = Path()) -> bool:
    """Whether -m and --nano, as they were given or not, come to the bundled model."""
    return recipe is not None or (model is None and not (folder / DEFAULT_MODEL).exists())


def default_model(say: Callable[[str], None], recipe: str | None = None) -> Path:
    """The model of a command line without -m: here under the usual name, else the bundled one.

    Parameters
    ----------
    say : callable
        Gets a line for the user about a bundled model and why it was chosen.
    recipe : str, optional
        Of --nano, whatever lies in the folder.

    Raises
    ------
    OptionError
        See `bundled_model`.
    """
    if not uses_bundled(None, recipe):
        return DEFAULT_MODEL
    bundled = bundled_model("base", recipe or NANO_RECIPES[0])
    say(f"{'model' if recipe else f'no -m and no ./{DEFAULT_MODEL}'}: {bundled.notice}")
    return bundled.path
