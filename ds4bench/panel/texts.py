"""Texts of several kinds, made from a seed: what is decoded decides how many drafts are kept.

The kinds are those in which published speeds of one machine differ most: prose, code, tables,
mathematics, repetition, translation, chat and reasoning. Every word is made here, the same on every
machine and Python version. A model continues such a text in its own words, so a kind names what
stands in the context and not what is emitted; nothing here knows tokens.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.nano import prose
from engine.nano.words import NAMES, THINGS, Draw

_VERBS = ("opens", "closes", "carries", "counts", "paints", "sells", "finds", "keeps")
_COLOURS = ("red", "green", "blue", "white", "grey", "yellow")
_PLACES = ("harbour", "market", "school", "station", "garden", "mill", "bridge", "museum")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
# English and what stands for it in the other language of the pairs.
_GERMAN = {
    "red": "rot", "green": "grün", "blue": "blau", "white": "weiß", "grey": "grau",
    "yellow": "gelb", "harbour": "Hafen", "market": "Markt", "school": "Schulhof",
    "station": "Bahnhof", "garden": "Garten", "mill": "Mühlenhof", "bridge": "Steg",
    "museum": "Museumshof", "Monday": "Montag", "Tuesday": "Dienstag", "Wednesday": "Mittwoch",
    "Thursday": "Donnerstag", "Friday": "Freitag",
}  # fmt: skip


def _code(r: Draw) -> str:
    thing = r.pick(THINGS).rstrip("s")
    verb = r.pick(("count", "merge", "filter", "group", "scale"))
    limit, step = r.between(2, 99), r.between(2, 9)
    return (
        f"def {verb}_{thing}s(items: list[int], limit: int = {limit}) -> list[int]:\n"
        f'    """Return every {thing} that is below the limit, scaled by {step}."""\n'
        f"    result: list[int] = []\n"
        f"    for index, item in enumerate(items):\n"
        f"        if item >= limit or index % {step} == 0:\n"
        f"            continue\n"
        f"        result.append(item * {step})\n"
        f"    return result\n\n\n"
        f"def test_{verb}_{thing}s() -> None:\n"
        f"    assert {verb}_{thing}s([]) == []\n"
        f"    assert {verb}_{thing}s([{limit}, {limit + 1}]) == []\n\n\n"
    )


def _tables(r: Draw) -> str:
    names = r.sample(NAMES, 5)
    rows = [(n, r.pick(_PLACES), r.between(10, 99), r.pick(_COLOURS)) for n in names]
    if r.chance(0.5):
        body = ",\n".join(
            f'  {{"name": "{n}", "place": "{p}", "count": {k}, "colour": "{c}"}}'
            for n, p, k, c in rows
        )
        return f"[\n{body}\n]\n\n"
    body = "\n".join(f"| {n} | {p} | {k} | {c} |" for n, p, k, c in rows)
    return f"| name | place | count | colour |\n|---|---|---|---|\n{body}\n\n"


def _mathematics(r: Draw) -> str:
    a, b, x = r.between(2, 19), r.between(2, 99), r.between(2, 30)
    total = a * x + b
    return (
        f"Problem. Solve {a}x + {b} = {total} for x.\n"
        f"Solution. Subtract {b} from both sides: {a}x = {total} - {b} = {total - b}. "
        f"Divide by {a}: x = {total - b} / {a} = {x}. "
        f"Check: {a} * {x} + {b} = {a * x} + {b} = {total}. The answer is {x}.\n\n"
    )


def _repetition(r: Draw) -> str:
    # One sentence for the whole text: `r` is another one for each piece.
    return "The quick clerk counts the red boxes at the old station and writes the sum down. " * 4


def _translation(r: Draw) -> str:
    colour, place, day = r.pick(_COLOURS), r.pick(_PLACES), r.pick(_DAYS)
    name, n = r.pick(NAMES), r.between(2, 99)
    german = (_GERMAN[colour], _GERMAN[place], _GERMAN[day])
    return (
        f"English: On {day} {name} saw {n} boxes at the {place}, and all of them were {colour}.\n"
        f"Deutsch: Am {german[2]} sah {name} {n} Kisten am {german[1]}, und alle waren "
        f"{german[0]}.\n\n"
    )


def _chat(r: Draw) -> str:
    name, place, day = r.pick(NAMES), r.pick(_PLACES), r.pick(_DAYS)
    hour = r.between(8, 18)
    return (
        f"User: Hello, can you tell me when {name} {r.pick(_VERBS)} the {place} on {day}?\n"
        f"Assistant: Of course. {name} is there on {day} from {hour} o'clock. "
        f"Would you like me to remind you an hour earlier?\n"
        f"User: Yes please, and tell me which {r.pick(THINGS)} I should bring.\n"
        f"Assistant: Bring the {r.pick(_COLOURS)} ones. I will remind you at {hour - 1} "
        f"o'clock.\n\n"
    )


def _reasoning(r: Draw) -> str:
    a, b, c = r.sample(NAMES, 3)
    x, more, fewer = r.between(20, 60), r.between(2, 15), r.between(2, 15)
    return (
        f"Question: {a} has {x} {r.pick(THINGS)}. {b} has {more} more than {a}, and {c} has "
        f"{fewer} fewer than {b}. Who has the most?\n"
        f"Let me think. {a} has {x}. {b} has {x} + {more} = {x + more}. {c} has {x + more} - "
        f"{fewer} = {x + more - fewer}. Wait, I should check whether {c} has more than {a}: "
        f"{x + more - fewer} against {x}. Either way {b} is ahead of both. "
        f"So the answer is {b}.\n\n"
    )


_KINDS: dict[str, Callable[[Draw], str]] = {
    "code": _code,
    "tables": _tables,
    "mathematics": _mathematics,
    "repetition": _repetition,
    "translation": _translation,
    "chat": _chat,
    "reasoning": _reasoning,
}
CLASSES = ("prose", *_KINDS)
SETS = {"panel": CLASSES}


def generated(text_class: str, seed: int, n_chars: int) -> str:
    """At least `n_chars` characters of a kind; a longer text begins with a shorter one.

    Parameters
    ----------
    text_class : str
        One of `CLASSES`; '' is prose.
    """
    if text_class in ("", "prose"):
        return prose.text(seed, n_chars)
    kind, size = _KINDS[text_class], 0
    pieces: list[str] = []
    while size < n_chars:
        pieces.append(kind(Draw("panel", text_class, seed, len(pieces))))
        size += len(pieces[-1])
    return "".join(pieces)
