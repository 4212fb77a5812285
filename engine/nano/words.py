"""Words that the nano model's exams and prose are made of, and seeded draws from them.

Every word that may have to be copied is short and common to many templates: the tokenizer holds
each of them as one token, and there is room for about 500.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")

# Part of every seed and of the split: of two versions, one trains on what the other holds out.
VERSION = "3"

NAMES = tuple(
    [
        "Ada",
        "Ben",
        "Cleo",
        "Dan",
        "Eva",
        "Finn",
        "Gus",
        "Hana",
        "Ivo",
        "Jade",
        "Kai",
        "Lena",
        "Mira",
        "Noor",
        "Omar",
        "Paul",
        "Rosa",
        "Sven",
        "Tara",
        "Uma",
        "Vito",
        "Wren",
        "Yara",
        "Zeno",
        "Alma",
        "Boris",
        "Cora",
        "Elsa",
        "Hugo",
        "Iris",
        "Leo",
        "Nils",
    ]
)
THINGS = tuple(
    [
        "shells",
        "coins",
        "stamps",
        "cards",
        "beads",
        "stones",
        "books",
        "pens",
        "keys",
        "cups",
        "nuts",
        "rings",
    ]
)
GROUPS = {
    "fruit": tuple(["pear", "plum", "fig", "lime", "grape", "peach", "mango", "cherry"]),
    "animal": tuple(["otter", "lynx", "mole", "toad", "moose", "ferret", "hare", "goat"]),
    "tool": tuple(["hammer", "saw", "drill", "chisel", "wrench", "spade", "rake", "file"]),
    "color": tuple(["amber", "teal", "violet", "crimson", "olive", "ivory", "maroon", "gray"]),
    "metal": tuple(["iron", "zinc", "tin", "lead", "copper", "nickel", "silver", "cobalt"]),
    "bird": tuple(["heron", "raven", "crow", "swan", "stork", "finch", "robin", "gull"]),
    "tree": tuple(["oak", "elm", "pine", "birch", "cedar", "maple", "willow", "ash"]),
    "instrument": tuple(["flute", "violin", "harp", "drum", "oboe", "cello", "tuba", "horn"]),
}
GROUP_OF = {word: group for group, words in GROUPS.items() for word in words}
WORDS = tuple(GROUP_OF)
LETTERS = "ABCDEFGHIJ"
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


class Draw:
    """Draws that are the same on every machine and Python version: SHA-256 of what names them.

    Parameters
    ----------
    parts : str or int
        Any number of names and numbers.
    """

    def __init__(self, *parts: str | int) -> None:
        text = "\0".join(map(str, (VERSION, *parts)))
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        # Of this generator only `random` is promised to stay the same in later releases.
        self.random = Random(seed).random

    def below(self, n: int) -> int:
        return int(self.random() * n)

    def between(self, low: int, high: int) -> int:
        """An integer of [low, high]."""
        return low + int(self.random() * (high - low + 1))

    def chance(self, p: float) -> bool:
        return self.random() < p

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.random() * len(items))]

    def sample(self, items: Sequence[T], n: int) -> list[T]:
        """n different items in random order."""
        pool = list(items)
        for i in range(n):
            j = i + int(self.random() * (len(pool) - i))
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:n]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        return self.sample(items, len(items))
