"""Presets: lists of question ids, or rules that draw them from a data set.

`ds4-23` is the order of the report that this project starts from, questions 1 to 23 of the 92
of the C program ds4-eval. A key of a GPQA question fixes where its correct choice is shown; the
other choices follow in a seeded order. The other presets are whole sets or seeded samples.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ds4eval.questions.aime import KEYS
from ds4eval.questions.spelling import plain


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a preset: data set, id, and the key it must have ('' when not fixed).

    `choices` are hashes of the choices in the order they must be shown; empty when not fixed.
    """

    dataset: str
    id: str
    key: str = ""
    choices: tuple[str, ...] = ()


def choice_hash(text: str) -> str:
    """Sixteen hex digits of the SHA-256 of a choice's text, spelling details left out."""
    return hashlib.sha256(plain(text).encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Preset:
    """A selection over data sets that the user holds.

    With `items`, exactly these in this order; otherwise all of `dataset`, or a sample of `size`
    stratified by `strata` and drawn with `seed`.
    """

    name: str
    summary: str
    items: tuple[Item, ...] = ()
    dataset: str = ""
    size: int = 0
    strata: tuple[str, ...] = ()
    seed: int = 0

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the data sets it draws on, in order of first use."""
        return tuple(dict.fromkeys(item.dataset for item in self.items)) or (self.dataset,)


def _items(text: str) -> tuple[Item, ...]:
    names = {"G": "gpqa-diamond", "S": "supergpqa", "A": "aime25"}
    rows = (line.split() for line in text.strip().splitlines())
    return tuple(Item(names[row[0]], row[1], row[2]) for row in rows)


DS4_23 = _items("""
G recNu3MXkvWUzHZr9 B
S 001b51d76b4d422988f2c11f104a2c6c C
A aime2025-01 70
G recoiTJPGUmzAkief C
S b7e20eac98764fb0bf30e8366d951daa J
A aime2025-16 468
G rec4UqStf9WUVif1f B
S 4a1d1780a93f4093b6fb7d3c314cbea8 E
A aime2025-02 588
G recgI6tUQ7RLJRWGx B
S 6082513c8dba4ec68aa68f1bf5854d09 A
A aime2025-03 16
G recDytVnNYZe2HuUU A
S bebf1ed45ae14ad7b4f205f3909cb58a J
A aime2025-18 82
G recNFJjE5PPTqVJGv D
S 7ca71b86327744b78e93185a45bc5cef I
A aime2025-04 117
G rec2UlKqC6RFHdcro B
S d44b94f7749345a39a65f6312bda8764 E
A aime2025-19 106
G recv7GsQg3f0fvB1f B
S febe406f44d74a40b50bb5b7c69d5dc1 B
""")

PRESETS = {
    preset.name: preset
    for preset in (
        Preset("ds4-23", "the first 23 of ds4-eval's 92, its order and keys", DS4_23),
        Preset("smoke", "the first 6 of ds4-23, two of each set", DS4_23[:6]),
        Preset("aime25", "AIME 2025, both papers, 30 questions", dataset="aime25"),
        Preset("gpqa-diamond", "GPQA Diamond, 198 questions", dataset="gpqa-diamond"),
        Preset(
            "supergpqa-500",
            "500 of SuperGPQA, stratified by discipline and difficulty",
            dataset="supergpqa",
            size=500,
            strata=("discipline", "difficulty"),
            seed=2025,
        ),
    )
}

# Keys that a copy can be checked against, whatever is run.
KNOWN_KEYS = {item.id: item.key for item in DS4_23 if item.dataset == "supergpqa"} | KEYS
