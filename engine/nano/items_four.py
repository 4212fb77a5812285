"""The gpqa-like family: four choices, found in stated facts or by a short calculation."""

from __future__ import annotations

from engine.nano.items_integer import finish
from engine.nano.steps import best, multiply, search, walk
from engine.nano.words import GROUPS, LETTERS, NAMES, WORDS, Draw

_Drawn = tuple[str, tuple[str, ...], str, str]
N_CHOICES = 4

# verb, noun, unit
_PROPERTIES = (
    ("melts at", "melting point", "K"),
    ("weighs", "weight", "g"),
    ("boils at", "boiling point", "K"),
)
_PLACES = tuple(["cellar", "tower", "garden", "market", "library", "harbor", "mill", "forest"])
_FORMULAS = (
    ("mass", "speed", "momentum"),
    ("force", "distance", "work"),
    ("voltage", "current", "power"),
)


def chosen(r: Draw, right: str, wrong: list[str], thinking: str, question: str) -> _Drawn:
    """The item with its choices in random order; the letter is found by walking them."""
    choices = r.shuffled([right, *wrong])
    letter = LETTERS[choices.index(right)]
    text = f"{thinking} {walk(r, choices, right)}{finish(r, letter)}"
    return question, tuple(choices), letter, text


def _facts(r: Draw, level: int, verb: str, unit: str) -> tuple[list[str], list[int], str]:
    names = r.sample(GROUPS["metal"], N_CHOICES)
    low, high = ((10, 99), (100, 999), (100, 999))[level]
    values = r.sample(range(low, high + 1), N_CHOICES)
    text = " ".join(f"The {n} {verb} {v} {unit}." for n, v in zip(names, values))
    return names, values, text


def _extreme(r: Draw, level: int) -> _Drawn:
    verb, noun, unit = r.pick(_PROPERTIES)
    names, values, facts = _facts(r, level, verb, unit)
    most = r.chance(0.5)
    right = names[values.index(max(values) if most else min(values))]
    word = "highest" if most else "lowest"
    question = f"{facts} Which metal has the {word} {noun}?"
    thinking = best(r, list(zip(names, values)), most)
    return chosen(r, right, [n for n in names if n != right], thinking, question)


def _lookup(r: Draw, level: int) -> _Drawn:
    verb, _, unit = r.pick(_PROPERTIES)
    names, values, facts = _facts(r, level, verb, unit)
    at = r.below(N_CHOICES)
    question = f"{facts} Which metal {verb} {values[at]} {unit}?"
    rows = [(n, str(v)) for n, v in zip(names, values)]
    thinking = search(r, rows, str(values[at]), names[at])
    return chosen(r, names[at], [n for n in names if n != names[at]], thinking, question)


def _formula(r: Draw, level: int) -> _Drawn:
    first, second, result = r.pick(_FORMULAS)
    low, high = ((2, 9), (11, 49), (51, 99))[level]
    a, b = r.between(low, high), r.between(2, 9)
    x = a * b
    near = [x + a, x - b, a + b, x + 1, x + 10, x + 2, x - 1, x + b]
    wrong = [str(v) for v in r.shuffled(sorted({v for v in near if v > 0 and v != x}))][:3]
    question = (
        f"A body has {first} {a} and {second} {b}. "
        f"What is its {result}, the {first} times the {second}?"
    )
    return chosen(r, str(x), wrong, multiply(r, a, b), question)


def _compare(r: Draw, level: int) -> _Drawn:
    low, high = ((10, 99), (100, 999), (100, 999))[level]
    values = r.sample(range(low, high + 1), N_CHOICES)
    if level == 2:  # all of one hundred, so that the first digit decides nothing
        base = r.between(1, 9) * 100
        values = [base + v for v in r.sample(range(100), N_CHOICES)]
    most = r.chance(0.5)
    x = max(values) if most else min(values)
    question = f"Which of these measurements is the {'largest' if most else 'smallest'}?"
    choices = r.shuffled([str(v) for v in values])
    rows = [(LETTERS[i], int(c)) for i, c in enumerate(choices)]
    letter = LETTERS[choices.index(str(x))]
    return question, tuple(choices), letter, best(r, rows, most) + finish(r, letter)


def _place(r: Draw, level: int) -> _Drawn:
    count = (4, 5, 6)[level]
    people, places = r.sample(NAMES, count), r.sample(_PLACES, count)
    at = r.below(count)
    rows = list(zip(people, places))
    facts = " ".join(f"{n} is in the {p}." for n, p in rows)
    wrong = r.sample([p for p in places if p != places[at]], 3)
    if r.chance(0.5):
        question = f"{facts} Where is {people[at]}?"
        thinking = search(r, rows, people[at], places[at])
        return chosen(r, places[at], wrong, thinking, question)
    others = r.sample([n for n in people if n != people[at]], 3)
    question = f"{facts} Who is in the {places[at]}?"
    return chosen(r, people[at], others, search(r, rows, places[at], people[at]), question)


def neighbours(r: Draw, words: list[str], at: int, after: bool) -> str:
    """The order again up to words[at + 1], and which of the last two is wanted."""
    pair = words[at : at + 2]
    right = pair[1] if after else pair[0]
    start = r.pick(("Order", "In order", "The order is"))
    return f"{start}: {', '.join(words[: at + 2])}. The last two are {' '.join(pair)}, so {right}."


def _order(r: Draw, level: int) -> _Drawn:
    count = (4, 5, 6)[level]
    words = r.sample(WORDS, count)
    at = r.below(count - 1)
    after = r.chance(0.5)
    known, right = (words[at], words[at + 1]) if after else (words[at + 1], words[at])
    side = "after" if after else "before"
    question = f"Take the order {', '.join(words)}. Which word comes directly {side} {known}?"
    thinking = neighbours(r, words, at, after)
    wrong = [*r.sample([w for w in words if w not in (known, right)], 2), known]
    return chosen(r, right, wrong, thinking, question)


KINDS = {
    "extreme": ("physics", _extreme),
    "lookup": ("chemistry", _lookup),
    "formula": ("physics", _formula),
    "compare": ("physics", _compare),
    "place": ("reading", _place),
    "order": ("reading", _order),
}
