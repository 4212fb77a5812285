"""Exam items of three families, drawn by seed and split into train and held-out by their text.

An item is drawn from SHA-256 of (version, seed, split, family, index) alone; a hash of question
and choices puts each into one split, so that no text is ever in both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine.nano import items_four, items_integer, items_many
from engine.nano.words import VERSION, Draw

FAMILIES = ("aime", "gpqa", "supergpqa")
SPLITS = ("train", "held-out")
LEVELS = ("easy", "middle", "hard")
# One text in this many is held out.
HELD_OUT_IN = 8

Drawn = tuple[str, tuple[str, ...], str, str]
Maker = Callable[[Draw, int], Drawn]
KINDS: Mapping[str, Mapping[str, tuple[str, Maker]]] = {
    "aime": items_integer.KINDS,
    "gpqa": items_four.KINDS,
    "supergpqa": items_many.KINDS,
}


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its worked answer.

    Parameters
    ----------
    level : int
        0, 1, 2 for easy, middle, hard.
    choices : tuple of str
        Empty for integer answers.
    answer : str
        An integer 0 to 999, or a letter.
    thinking : str
        Text of the think block.
    """

    family: str
    kind: str
    discipline: str
    level: int
    question: str
    choices: tuple[str, ...]
    answer: str
    thinking: str

    @property
    def text(self) -> str:
        """What decides the split: everything of the item that a model is shown."""
        return "\n".join((self.question, *self.choices))


def split_of(text: str) -> str:
    """Split that a text (`Item.text`) belongs to."""
    digest = hashlib.sha256(f"nano split {VERSION}\0{text}".encode()).digest()
    return SPLITS[digest[0] % HELD_OUT_IN == 0]


def draw(r: Draw, family: str, kind: str, split: str) -> Item:
    """An item of one kind and split from a stream of draws."""
    discipline, maker = KINDS[family][kind]
    while True:
        level = r.below(len(LEVELS))
        question, choices, answer, thinking = maker(r, level)
        if not choices:
            thinking += items_integer.finish(r, answer)
        found = Item(family, kind, discipline, level, question, choices, answer, thinking)
        if split_of(found.text) == split:
            return found


def item(family: str, index: int, seed: int = 0, split: str = "train") -> Item:
    """Item number `index` of a family and split; its kinds take turns.

    Two indices may give the same text where a kind has few.

    Raises
    ------
    ValueError
        If there is no such family or split.
    """
    if family not in FAMILIES or split not in SPLITS:
        raise ValueError(
            f"family and split: expected {FAMILIES} and {SPLITS}, found {family!r} and {split!r}"
        )
    kinds = tuple(KINDS[family])
    r = Draw("item", seed, split, family, index)
    return draw(r, family, kinds[index % len(kinds)], split)
