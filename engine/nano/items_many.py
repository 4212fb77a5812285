"""The supergpqa-like family: up to ten choices, several disciplines."""

from __future__ import annotations

from engine.nano.items_four import chosen, neighbours
from engine.nano.items_integer import finish
from engine.nano.steps import add, search, subtract, therefore
from engine.nano.words import (
    GROUP_OF,
    GROUPS,
    LETTERS,
    NAMES,
    ORDINALS,
    THINGS,
    WORDS,
    Draw,
)

_Drawn = tuple[str, tuple[str, ...], str, str]
_COUNTS = ((6, 7), (8, 9), (10, 10))  # choices by level


def _n(r: Draw, level: int) -> int:
    return r.between(*_COUNTS[level])


def _code(r: Draw, level: int) -> _Drawn:
    """A code that a person keeps, among the codes of others."""
    people = r.sample(NAMES, (3, 4, 6)[level])
    values = [str(v) for v in r.sample(range(10, 100), 12)]
    at = r.below(len(people))
    facts = " ".join(f"{p} keeps code {v}." for p, v in zip(people, values))
    wrong = [v for v in values if v != values[at]][: _n(r, level) - 1]
    question = f"{facts} Which code does {people[at]} keep?"
    thinking = search(r, list(zip(people, values)), people[at], values[at])
    return chosen(r, values[at], wrong, thinking, question)


def _category(r: Draw, level: int) -> _Drawn:
    """A member of a group that was learned, not told."""
    group = r.pick(tuple(GROUPS))
    right = r.pick(GROUPS[group])
    wrong = r.sample([w for w in WORDS if GROUP_OF[w] != group], _n(r, level) - 1)
    choices = r.shuffled([right, *wrong])
    at = choices.index(right)
    lines = [f"{LETTERS[i]}. {c} {GROUP_OF[c]}" for i, c in enumerate(choices[: at + 1])]
    letter = LETTERS[at]
    start = r.pick(("Look for", "Find", "Search for"))
    thinking = f"{start} {group}:\n" + "\n".join(lines) + f" yes, {therefore(r)} {letter}."
    question = r.pick(
        ("Which of the following is a kind of {}?", "Which word names a kind of {}?")
    ).format(group)
    return question, tuple(choices), letter, thinking + finish(r, letter)


def _after(r: Draw, level: int) -> _Drawn:
    words = r.sample(WORDS, _n(r, level))
    at = r.below(len(words) - 1)
    question = (
        f"Consider the order {', '.join(words)}. Which word comes directly after {words[at]}?"
    )
    thinking = neighbours(r, words, at, True)
    wrong = [w for w in words if w != words[at + 1]]
    return chosen(r, words[at + 1], wrong, thinking, question)


def _position(r: Draw, level: int) -> _Drawn:
    words = r.sample(WORDS, _n(r, level))
    at = r.below(min(len(words), len(ORDINALS)))
    listed = " ".join(f"{i + 1} {w}" for i, w in enumerate(words))
    question = f"Consider the list {listed}. Which word is the {ORDINALS[at]}?"
    thinking = f"The {ORDINALS[at]} is number {at + 1}: {at + 1} {words[at]}."
    return chosen(r, words[at], [w for w in words if w != words[at]], thinking, question)


def _next(r: Draw, level: int) -> _Drawn:
    step = r.between(2, (9, 19, 49)[level])
    first = r.between(1, (30, 99, 300)[level])
    terms = [first + step * i for i in range(5)]
    x = terms[-1]
    near = [x + d for d in range(-9, 10) if d and x + d > 0]
    wrong = [str(v) for v in r.sample(near, _n(r, level) - 1)]
    question = f"Which number continues the sequence {', '.join(map(str, terms[:-1]))}?"
    thinking = f"{subtract(r, terms[-2], terms[-3])} {add(r, terms[-2], step)}"
    return chosen(r, str(x), wrong, thinking, question)


def _owner(r: Draw, level: int) -> _Drawn:
    """Who has how many of a thing; the wanted number names the person."""
    people = r.sample(NAMES, _n(r, level))
    values = r.sample(range(10, 100), len(people))
    things = r.pick(THINGS)
    at = r.below(len(people))
    facts = " ".join(f"{p} has {v} {things}." for p, v in zip(people, values))
    question = f"{facts} Who has {values[at]} {things}?"
    rows = [(p, str(v)) for p, v in zip(people, values)]
    thinking = search(r, rows, str(values[at]), people[at])
    return chosen(r, people[at], [p for p in people if p != people[at]], thinking, question)


KINDS = {
    "code": ("memory", _code),
    "category": ("biology", _category),
    "after": ("sequences", _after),
    "position": ("sequences", _position),
    "next": ("arithmetic", _next),
    "owner": ("memory", _owner),
}
