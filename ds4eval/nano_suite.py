"""Generated questions of arithmetic and look-up in the three families; no model makes them.

Deterministic by seed: item i of a family is drawn from SHA-256 of (seed, family, i) alone. A hash
of the question's text splits items into 'train' and 'held-out', so that no text is ever in both.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import pairwise

from ds4eval.questions import LETTERS, Question, stable_hash

FAMILIES = ("aime", "gpqa", "supergpqa")
SPLITS = ("train", "held-out")
# One item in this many is held out.
HELD_OUT_IN = 4
GENERATOR_VERSION = "1"

_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "Jade", "Kai", "Lena")
_THINGS = ("amber", "basalt", "cobalt", "dune", "ember", "fjord", "garnet", "heron", "indigo",
           "juniper", "kelp", "lichen", "marble", "nectar", "onyx", "pebble")  # fmt: skip
_PLACES = ("cellar", "attic", "harbour", "orchard", "library", "mill", "tower", "market", "garden",
           "station")  # fmt: skip


def split_of(text: str) -> str:
    """Split that a question's text belongs to."""
    return SPLITS[stable_hash("nano split", text) % HELD_OUT_IN == 0]


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
    if family not in FAMILIES or split not in SPLITS:
        raise ValueError(f"family and split: expected {FAMILIES} and {SPLITS}")
    found: list[Question] = []
    seen: set[str] = set()
    for question in _stream(family, seed):
        if len(found) == count:
            break
        if split_of(question.text) == split and question.text not in seen:
            seen.add(question.text)
            found.append(question)
    return found


def nano_suite(per_family: int = 20, seed: int = 0) -> list[Question]:
    """Held-out questions of all families in turn, `per_family` of each."""
    columns = [generate(family, per_family, seed) for family in FAMILIES]
    return [question for row in zip(*columns) for question in row]


def _stream(family: str, seed: int) -> Iterator[Question]:
    makers = {"aime": _AIME, "gpqa": _GPQA, "supergpqa": _SUPER}[family]
    index = 0
    while True:
        rng = random.Random(stable_hash("nano", GENERATOR_VERSION, seed, family, index))
        kind = index % len(makers)
        id_ = f"nano-{family}-{seed}-{index:05d}"
        yield makers[kind](rng, id_)
        index += 1


def _integer(id_: str, text: str, answer: int, kind: str, level: int) -> Question:
    return Question(
        id=id_, source="nano/aime", text=text, answer=str(answer), kind="integer", domain=kind,
        strata=(("task", kind), ("difficulty", ("easy", "middle", "hard")[level])),
    )  # fmt: skip


def _choice(
    rng: random.Random, id_: str, family: str, text: str, right: str, wrong: list[str],
    task: str, **strata: str,
) -> Question:  # fmt: skip
    choices = [right, *wrong]
    rng.shuffle(choices)
    return Question(
        id=id_, source=f"nano/{family}", text=text, answer=LETTERS[choices.index(right)],
        kind="letter", choices=tuple(choices), domain=strata.get("discipline", task),
        strata=(("task", task), *strata.items()),
    )  # fmt: skip


# AIME: integers 0 to 999 -------------------------------------------------------------------------


def _chain(rng: random.Random, id_: str) -> Question:
    level = rng.randrange(3)
    value = rng.randrange(2, 40)
    steps = [f"Start with {value}."]
    for _ in range(2 + 2 * level):
        options = ["add"]
        if value > 4:
            options.append("subtract")
        if value * 3 <= 900:
            options.append("multiply")
        action = rng.choice(options)
        if action == "add":
            n = rng.randrange(1, min(60, 999 - value) + 1) if value < 999 else 0
            value, step = value + n, f"Add {n}."
        elif action == "subtract":
            n = rng.randrange(1, value)
            value, step = value - n, f"Subtract {n}."
        else:
            n = rng.randrange(2, 4)
            value, step = value * n, f"Multiply by {n}."
        steps.append(step)
    return _integer(id_, f"{' '.join(steps)} Which number is left?", value, "chain", level)


def _remainder(rng: random.Random, id_: str) -> Question:
    level = rng.randrange(3)
    a = rng.randrange(11, (40, 200, 999)[level])
    b = rng.randrange(11, (40, 200, 999)[level])
    m = rng.choice((7, 11, 13, 100, 1000)[: 3 + level])
    text = f"Find the remainder when {a} times {b} is divided by {m}."
    return _integer(id_, text, a * b % m, "remainder", level)


def _sum(rng: random.Random, id_: str) -> Question:
    level = rng.randrange(3)
    numbers = [rng.randrange(1, (50, 120, 160)[level]) for _ in range(3 + level)]
    text = f"Find the sum of {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}."
    return _integer(id_, text, sum(numbers), "sum", level)


def _shelf(rng: random.Random, id_: str) -> Question:
    names = rng.sample(_NAMES, 3)
    first, per, more = rng.randrange(2, 30), rng.randrange(2, 9), rng.randrange(1, 50)
    text = (
        f"{names[0]} has {first} stones. {names[1]} has {per} times as many as {names[0]}. "
        f"{names[2]} has {more} more than {names[1]}. How many stones do the three have together?"
    )
    second = first * per
    total = first + second + second + more
    return _integer(id_, text, total, "stones", 1)


# GPQA: four choices ------------------------------------------------------------------------------


def _place(rng: random.Random, id_: str) -> Question:
    count = rng.randrange(4, 7)
    names, places = rng.sample(_NAMES, count), rng.sample(_PLACES, count)
    facts = [f"{name} is in the {place}." for name, place in zip(names, places)]
    asked = rng.randrange(count)
    wrong = rng.sample([place for i, place in enumerate(places) if i != asked], 3)
    text = f"{' '.join(facts)} Where is {names[asked]}?"
    return _choice(rng, id_, "gpqa", text, places[asked], wrong, "place")


def _largest(rng: random.Random, id_: str) -> Question:
    things, weights = rng.sample(_THINGS, 4), rng.sample(range(10, 99), 4)
    facts = [f"The {thing} box weighs {w} kg." for thing, w in zip(things, weights)]
    heavy = rng.random() < 0.5
    right = things[weights.index(max(weights) if heavy else min(weights))]
    text = f"{' '.join(facts)} Which box is the {'heaviest' if heavy else 'lightest'}?"
    return _choice(rng, id_, "gpqa", text, right, [t for t in things if t != right], "extreme")


def _order(rng: random.Random, id_: str) -> Question:
    names = rng.sample(_NAMES, 4)
    facts = [f"{a} arrives before {b}." for a, b in pairwise(names)]
    rng.shuffle(facts)
    last = rng.random() < 0.5
    right = names[-1 if last else 0]
    text = f"{' '.join(facts)} Who arrives {'last' if last else 'first'}?"
    return _choice(rng, id_, "gpqa", text, right, [n for n in names if n != right], "order")


# SuperGPQA: up to ten choices, several disciplines -----------------------------------------------


def _product(rng: random.Random, id_: str) -> Question:
    a, b = rng.randrange(3, 30), rng.randrange(3, 30)
    right = a * b
    near = [right + d for d in range(-12, 13) if d and right + d > 0]
    wrong = [str(n) for n in rng.sample(near, 9)]
    text = f"What is {a} times {b}?"
    return _choice(rng, id_, "supergpqa", text, str(right), wrong, "product",
                   discipline="Arithmetic", difficulty="middle")  # fmt: skip


def _colour(rng: random.Random, id_: str) -> Question:
    count = rng.randrange(6, 11)
    things, owners = rng.sample(_THINGS, count), rng.sample(_NAMES, count)
    facts = [f"{owner} keeps the {thing}." for owner, thing in zip(owners, things)]
    asked = rng.randrange(count)
    text = f"{' '.join(facts)} Who keeps the {things[asked]}?"
    wrong = [owner for i, owner in enumerate(owners) if i != asked]
    return _choice(rng, id_, "supergpqa", text, owners[asked], wrong, "owner",
                   discipline="Memory", difficulty="easy")  # fmt: skip


def _position(rng: random.Random, id_: str) -> Question:
    words = rng.sample(_THINGS, rng.randrange(6, 11))
    asked = rng.randrange(len(words))
    ordinal = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth",
               "ninth", "tenth")[asked]  # fmt: skip
    text = f"Consider the list: {', '.join(words)}. Which word is the {ordinal}?"
    wrong = [word for i, word in enumerate(words) if i != asked]
    return _choice(rng, id_, "supergpqa", text, words[asked], wrong, "position",
                   discipline="Sequences", difficulty="easy")  # fmt: skip


def _next_term(rng: random.Random, id_: str) -> Question:
    start, step = rng.randrange(1, 50), rng.randrange(2, 25)
    terms = [start + step * i for i in range(4)]
    right = start + step * 4
    wrong = [str(right + d) for d in rng.sample([d for d in range(-9, 10) if d], 7)]
    text = f"What comes next: {', '.join(map(str, terms))}?"
    return _choice(rng, id_, "supergpqa", text, str(right), wrong, "next term",
                   discipline="Sequences", difficulty="middle")  # fmt: skip


_Maker = Callable[[random.Random, str], Question]
_AIME: tuple[_Maker, ...] = (_chain, _remainder, _sum, _shelf)
_GPQA: tuple[_Maker, ...] = (_place, _largest, _order)
_SUPER: tuple[_Maker, ...] = (_product, _colour, _position, _next_term)
