"""Options that say which model is opened, the same in every program, and the default model."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from engine.errors import OptionError
from engine.models.bundled import RECIPES as NANO_RECIPES
from engine.models.bundled import bundled_model
from engine.options import CHECK_VALUES
from engine.tooling.options.group import OptionGroup
from engine.tooling.options.types import OneOf

DEFAULT_MODEL = Path("ds4flash.gguf")


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Which model a command line asks for.

    Attributes
    ----------
    path : Path or None
        Of -m; None takes the default model.
    recipe : str or None
        Of --nano: the bundled model of this recipe.
    folder : Path or None
        Of --chdir.
    warm : bool
        Whether the file is read once before it is used.
    check_values : {'once', 'always', 'never'}
        When the file's values are scanned; see `engine.weights.verify`.
    """

    path: Path | None = None
    recipe: str | None = None
    folder: Path | None = None
    warm: bool = False
    check_values: str = CHECK_VALUES[0]

    def enter_folder(self) -> None:
        """Change to the folder of --chdir, so that every other path is looked up in it.

        Raises
        ------
        OptionError
            If there is no such folder.
        """
        if self.folder is None:
            return
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise OptionError(
                f"--chdir: expected a folder, found {str(self.folder)!r}: {error.strerror}"
            ) from None

    @property
    def bundled(self) -> str | None:
        """Recipe of the bundled model if that is what will be opened; looks into the folder."""
        if uses_bundled(self.path, self.recipe):
            return self.recipe or NANO_RECIPES[0]
        return None

    def resolve(self, say: Callable[[str], None]) -> Path:
        """The file to open; `say` gets a line on a model that nobody named.

        Raises
        ------
        OptionError
            See `bundled_model`.
        """
        return self.path or default_model(say, self.recipe)


def _parse(values: dict[str, Any]) -> ModelChoice:
    path, recipe = values["model"], values["nano"]
    if path is not None and recipe is not None:
        raise OptionError("--nano: expected without -m, found both")
    return ModelChoice(
        path, recipe, values["chdir"], values["warm_weights"], values["check_values"]
    )


MODEL = OptionGroup(
    "Model",
    (
        (
            ("-m", "--model"),
            {
                "type": click.Path(path_type=Path),
                "help": "GGUF file.",
                "default_text": f"./{DEFAULT_MODEL}, else the bundled model",
            },
        ),
        (
            ("--nano",),
            {
                "type": OneOf(NANO_RECIPES),
                "help": "Take the bundled model of this recipe, whatever lies in the folder.",
                "default_text": NANO_RECIPES[0],
            },
        ),
        (
            ("--chdir",),
            {
                "type": click.Path(path_type=Path),
                "metavar": "DIR",
                "help": "Change to this folder before any file is looked up.",
            },
        ),
        (
            ("--warm-weights",),
            {"is_flag": True, "help": "Read the model file once before it is used."},
        ),
        (
            ("--check-values",),
            {
                "type": OneOf(CHECK_VALUES),
                "default": CHECK_VALUES[0],
                "help": "Scan the model file for NaN and infinity: once, at every start or never. "
                "A scan reads all of it.",
            },
        ),
    ),
    _parse,
)


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
