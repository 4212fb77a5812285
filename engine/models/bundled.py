"""The model that is used when the user names none: trained, small, and part of the package.

`engine.training` made it from the texts of `engine.nano`; `data/nano.json` says how, and holds
the files' hashes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.errors import OptionError

DATA = Path(__file__).resolve().parent / "data"
TOKENIZER = DATA / "nano-tokenizer.json"
FACTS = DATA / "nano.json"
# Name of a pair of files -> its recipe of `recipes`: as the published Flash files are quantised,
# and nearly lossless.
FORMATS = {"iq2": "iq2", "q8": "q8_0"}
RECIPES = tuple(FORMATS)
KINDS = ("base", "mtp")
DSPARK = "dspark"


@dataclass(frozen=True, slots=True)
class BundledModel:
    """Where the model lies, and one line for the user about what it is."""

    path: Path
    notice: str


def file_name(recipe: str, kind: str) -> str:
    """Name of a file of the nano model, packaged or not."""
    return f"nano-{recipe}-{kind}.gguf"


def bundled_model(kind: str = "base", recipe: str = RECIPES[0]) -> BundledModel:
    """The trunk (`base`), MTP block (`mtp`) or DSpark drafter (`dspark`) of the bundled model.

    Parameters
    ----------
    kind : {'base', 'mtp', 'dspark'}
    recipe : {'iq2', 'q8'}
        The drafter is packaged as q8 alone: one serves the trunks of both.

    Raises
    ------
    OptionError
        If there is no such recipe, or the installation lacks the file.
    """
    assert kind in (*KINDS, DSPARK), kind
    if recipe not in RECIPES:
        raise OptionError(f"--nano: expected one of {', '.join(RECIPES)}, found {recipe!r}")
    path = DATA / file_name(recipe, kind)
    if not path.is_file():
        raise OptionError(f"bundled model: expected {str(path)!r}, found no such file")
    return BundledModel(path, f"bundled nano model ({recipe}, 12.6 M trained weights) {path}")
