"""Makes questions about long texts: facts told at known depths, asked again behind the text.

The texts are the templated prose that the bundled model was trained on (`engine.nano.prose`), and
facts and questions use its words where they can. A length is in tokens of about that prose, to
some per cent: tokenizers differ, and each reply's record says what its prompt really took.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from ds4eval.questions.question import LETTERS, Question
from engine.nano.prose import sentence, statement
from engine.nano.words import NAMES, Draw

# A fact: place among the sentences, depth, rank among those of one depth, text.
Inserted = tuple[int, float, int, str]
# Part of a run's configuration: changes whenever the same seed would give other questions.
VERSION = "1"
LENGTHS = (4096, 8192, 16384, 32768, 65536, 131072, 262144)
# Places of the fact that a question turns on, in per cent of the text.
DEPTHS = (0, 25, 50, 75, 100)
# Sentences drawn for one seed; a long text says many of them again.
_POOL = 3000
# Numbers of other people, told in every text so that a question's words must be read.
_OTHERS = 8
# Measured on this prose with the bundled model's tokenizer.
_TOKENS_PER_SENTENCE = 11.5
# Of a length, what the text takes; the rest is for the question and the chat around it.
_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Told:
    """Facts with their depths (fractions of the text, the decisive one first), and the question."""

    facts: tuple[tuple[float, str], ...]
    asked: str
    answer: str
    kind: str = "integer"
    choices: tuple[str, ...] = ()


def _recall(r: Draw, names: list[str], depth: float) -> Told:
    """One fact."""
    number = r.between(100, 999)
    asked = f"What is the number of {names[0]}?"
    return Told(((depth, statement(names[0], number)),), asked, str(number))


def _several(r: Draw, names: list[str], depth: float) -> Told:
    """Three facts, one of them at the depth."""
    numbers = [r.between(100, 999) for _ in range(3)]
    places = [depth, r.random(), r.random()]
    told = zip(places, names, numbers)
    facts = tuple((at, statement(name, number)) for at, name, number in told)
    asked = (
        f"What are the numbers of {names[0]}, {names[1]} and {names[2]}? "
        "Write them in this order, separated by commas."
    )
    return Told(facts, asked, ", ".join(map(str, numbers)), "text")


def _order(r: Draw, names: list[str], depth: float) -> Told:
    """Which of four facts is told first: that at nine tenths of the depth, others behind it."""
    first = 0.9 * depth
    places = [first, *(first + (1 - first) * (0.1 + 0.9 * r.random()) for _ in range(3))]
    facts = tuple((at, statement(name, r.between(100, 999))) for at, name in zip(places, names))
    choices = r.shuffled(names[:4])
    asked = "Of these people, whose number is told first in the text?"
    return Told(facts, asked, LETTERS[choices.index(names[0])], "letter", tuple(choices))


def _count(r: Draw, names: list[str], depth: float) -> Told:
    """How often one event is told; one of the places is at the depth."""
    times = r.between(2, 9)
    places = [depth, *(r.random() for _ in range(times - 1))]
    facts = tuple((at, f"{names[0]} rang the bell.") for at in places)
    return Told(facts, f"How many times is it told that {names[0]} rang the bell?", str(times))


def _changed(r: Draw, names: list[str], depth: float) -> Told:
    """A fact that a later one, at the depth, replaces."""
    old, new = r.sample(range(100, 1000), 2)
    facts = (
        (depth, f"Now the number of {names[0]} is {new}."),
        (depth * (0.1 + 0.8 * r.random()), statement(names[0], old)),
    )
    return Told(facts, f"What is the number of {names[0]} now?", str(new))


TASKS: dict[str, Callable[[Draw, list[str], float], Told]] = {
    "recall": _recall,
    "several": _several,
    "order": _order,
    "count": _count,
    "changed": _changed,
}


def long_suite(seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> list[Question]:
    """Every task at every depth of every length, shortest first.

    Parameters
    ----------
    seed : int
        Another seed makes other texts, facts and questions.
    lengths : tuple of int
        In tokens.
    """
    return [
        _question(seed, length, depth, task)
        for length in lengths
        for depth in DEPTHS
        for task in TASKS
    ]


def length_name(tokens: int) -> str:
    """4k for 4096 tokens."""
    return f"{tokens // 1024}k"


def _question(seed: int, length: int, depth: int, task: str) -> Question:
    r = Draw("long", VERSION, seed, length, depth, task)
    names = r.sample(NAMES, _OTHERS + 4)
    told = TASKS[task](r, names, depth / 100)
    n = int(_SHARE * length / _TOKENS_PER_SENTENCE)
    # At one place the decisive fact, which is listed first, is told last: it replaces the others.
    inserted = [(round(at * n), at, -i, text) for i, (at, text) in enumerate(told.facts)]
    for name in names[4:]:
        at = r.random()
        inserted.append((round(at * n), at, 0, statement(name, r.between(100, 999))))
    inserted.sort()
    name = length_name(length)
    return Question(
        id=f"long-{name}-{task}-{depth:03d}-{seed}",
        source=f"long/{name}",
        text=f"{_text(r, _pool(seed), n, inserted)}\n\n{told.asked}",
        answer=told.answer,
        kind=told.kind,
        choices=told.choices,
        domain=task,
        strata=(
            ("length", name),
            ("depth", str(depth)),
            ("task", task),
            ("depths", " ".join(f"{100 * at:.1f}" for at, _ in told.facts)),
        ),
    )


def _text(r: Draw, pool: tuple[str, ...], n: int, inserted: list[Inserted]) -> str:
    """n sentences of the pool with the facts before the sentences of their places."""
    parts: list[str] = []
    done = 0
    for place, _, _, fact in inserted:
        parts += [r.pick(pool) for _ in range(place - done)]
        parts.append(fact)
        done = place
    parts += [r.pick(pool) for _ in range(n - done)]
    return " ".join(parts)


@lru_cache(maxsize=2)
def _pool(seed: int) -> tuple[str, ...]:
    r = Draw("long prose", VERSION, seed)
    return tuple(sentence(r, r.pick(NAMES)) for _ in range(_POOL))
