"""Presets: lists of question ids, or rules that draw them from a data set.

`ds4-92` is the order of the C program ds4-eval (antirez/ds4, `ds4_eval.c`), whose ids and keys are
public: 25 questions each of GPQA Diamond, SuperGPQA and AIME 2025 in turns, then 17 of line sets.
`ds4-23` is its beginning, the report that this project starts from. A key of a GPQA question fixes
where its correct choice is shown; the other choices follow in a seeded order. The other presets
are whole sets or seeded samples.
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
    names = {"G": "gpqa-diamond", "S": "supergpqa", "A": "aime25", "C": "compsec"}
    rows = (line.split() for line in text.strip().splitlines())
    return tuple(Item(names[row[0]], row[1], row[2]) for row in rows)


DS4_92 = _items("""
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
A aime2025-05 279
G recrHBEJJoDTV05JR C
S 31950dc80ded400a9181f50626d1f75c C
A aime2025-06 504
G recb80OwMgNnceA9t D
S 0f14cd17be174618af6d60227e7dca9f C
A aime2025-21 293
G recA1i5ZAh0Uzclxp C
S cef9bcc087434cc2b4e354a9baef55eb J
A aime2025-07 821
G recqGD3fxPCI59vPQ B
S 9f93aa2cfdb547b5b3a4623f80f7fff6 I
A aime2025-22 237
G rechKl68Uc6H7vU0N A
S 97ad69dda7b2462c98638b79e78aea0b E
A aime2025-08 77
G rec1zl5LvaatzGhFt B
S e78e4e539d6f4e379ac140d923d7b1be H
A aime2025-09 62
G recTs7qzfJs6kfLUK A
S 8483667a25e74fdfa3188de4ea734f03 A
A aime2025-24 149
G rec32C1ZEapBnCC0E C
S e5ed76ef98144f06843125daf1bccd35 A
A aime2025-10 81
G recZWeueB7lSPR6wN B
S fd7924876c4845cd83d95d61dfa0b236 H
A aime2025-25 907
G recVvpD8miVjmmyfe C
S 6bfe7d19299d4b3184636e1f51694306 I
A aime2025-26 113
G recAAJoHMW45Lv5je D
S e1825d70c5844c22933087eafa89e39c J
A aime2025-12 510
G reckEnrOPFT9Ru7tW C
S ab430ac3f18e4e02a2cb3f35498c6b30 A
A aime2025-27 19
G rec8nshandHARTkrg A
S e8c5da5ca40647158b0c91dd695c6243 F
A aime2025-13 204
G recFaL6j8UMhutXrc A
S 05efdc6fb2404ddc8dd5729bb68c74e5 H
A aime2025-28 248
G reczQ4I0VpENdMtIj C
S ba52e06cbe1a4310a77a7d12cd1db943 H
A aime2025-29 104
G recWxGU8Q4YReJ1tb C
S 591a77df21324272914be82ac6583399 F
A aime2025-15 735
G recMicVBcqy1xM1jq B
S e780f37a5baa4fe094cd9c157486664d H
A aime2025-30 240
C compsec-076 17-20
C compsec-077 18-20
C compsec-078 11
C compsec-079 18-19
C compsec-080 5-6
C compsec-081 10-15
C compsec-082 9-10
C compsec-083 9-11
C compsec-084 6-7
C compsec-085 5
C compsec-086 3,13-15
C compsec-087 8,20-22
C compsec-088 11
C compsec-089 10
C compsec-090 12-13
C compsec-091 3
C compsec-092 10-14
""")
DS4_23 = DS4_92[:23]

PRESETS = {
    preset.name: preset
    for preset in (
        Preset("ds4-23", "the first 23 of ds4-eval's 92, its order and keys", DS4_23),
        Preset("smoke", "the first 6 of ds4-23, two of each set", DS4_23[:6]),
        Preset("ds4-92", "all 92 of ds4-eval: GPQA, SuperGPQA, AIME, line sets", DS4_92),
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
KNOWN_KEYS = {item.id: item.key for item in DS4_92 if item.dataset == "supergpqa"} | KEYS
