"""Makes questions of the exam items that the bundled model was not trained on.

`engine.nano.items` draws and splits them; the model has seen their kinds, never their texts.
"""

from __future__ import annotations

from ds4eval.questions.question import Question
from engine.nano.items import FAMILIES, LEVELS, SPLITS, Item, item, split_of
from engine.nano.words import VERSION as GENERATOR_VERSION

__all__ = [
    "FAMILIES",
    "GENERATOR_VERSION",
    "SPLITS",
    "generate",
    "nano_suite",
    "split_of",
]


def generate(family: str, count: int, seed: int = 0, split: str = "held-out") -> list[Question]:
    """The first `count` questions of a family and split, no text twice.

    Parameters
    ----------
    family : {'aime', 'gpqa', 'supergpqa'}
    count : int
    seed : int
    split : {'train', 'held-out'}

    Raises
    ------
    ValueError
        If there is no such family or split.
    """
    found: list[Question] = []
    seen: set[str] = set()
    index = 0
    while len(found) < count:
        drawn = item(family, index, seed, split)
        if drawn.text not in seen:
            seen.add(drawn.text)
            found.append(_question(drawn, f"nano-{family}-{seed}-{index:05d}"))
        index += 1
    return found


def nano_suite(per_family: int = 20, seed: int = 0) -> list[Question]:
    """Held-out questions of all families in turn, `per_family` of each."""
    columns = [generate(family, per_family, seed) for family in FAMILIES]
    return [question for row in zip(*columns) for question in row]


def _question(drawn: Item, id_: str) -> Question:
    return Question(
        id=id_,
        source=f"nano/{drawn.family}",
        text=drawn.question,
        answer=drawn.answer,
        kind="letter" if drawn.choices else "integer",
        choices=drawn.choices,
        domain=drawn.discipline,
        strata=(
            ("task", drawn.kind),
            ("difficulty", LEVELS[drawn.level]),
            ("discipline", drawn.discipline),
        ),
    )
