"""Long templated prose whose facts are asked again later, and drills of copying and counting."""

from __future__ import annotations

import math

from engine.models.vocab import BOS, EOS
from engine.nano.chat import COMPLETION, PROMPT, PROSE, RECALL, Text, exchange, user_text
from engine.nano.items_four import neighbours
from engine.nano.steps import add, best, search, subtract, times_digit, walk
from engine.nano.words import LETTERS, NAMES, THINGS, WORDS, Draw

_WHEN = tuple(["Today", "Later", "At noon", "In the evening", "After the rain", "Before dawn"])
_ADJECTIVES = tuple(
    ["old", "quiet", "green", "small", "bright", "heavy", "narrow", "golden", "cold", "patient"]
)
_NOUNS = tuple(
    [
        "river",
        "tower",
        "garden",
        "bridge",
        "market",
        "lantern",
        "forest",
        "harbor",
        "clock",
        "letter",
        "mill",
    ]
)
_ACTS = tuple(
    ["walked to", "looked at", "painted", "repaired", "left", "found", "remembered", "described"]
)
_LONGEST = 7000  # tokens between a fact and its question
# Measured on generated text; only the spread of distances depends on it.
_TOKENS_PER_SENTENCE = 13.0


def sentence(r: Draw, who: str) -> str:
    kind = r.below(4)
    a, b = r.pick(_ADJECTIVES), r.pick(_NOUNS)
    if kind == 0:
        return f"{r.pick(_WHEN)} {who} {r.pick(_ACTS)} the {a} {b}."
    if kind == 1:
        return f"The {b} was {a} and the {r.pick(_NOUNS)} was {r.pick(_ADJECTIVES)}."
    if kind == 2:
        other, thing = r.pick(NAMES), r.pick(_NOUNS)
        return f"{who} met {other} near the {b} and they talked about the {a} {thing}."
    return f"{who} gave {r.between(2, 9)} {r.pick(THINGS)} to {r.pick(NAMES)} at the {b}."


def statement(name: str, number: int) -> str:
    return f"The number of {name} is {number}."


def _question(name: str) -> str:
    return f"Question: what is the number of {name}? The number of {name} is"


def story(r: Draw, n_tokens: int) -> Text:
    """Prose of about n_tokens tokens: facts early, each asked some time after it was told.

    Facts are told while others are asked; the gap between the two is log-uniform from a sentence
    to the length of the text. At most one number per name, so that a question has one answer.
    """
    n = max(int(n_tokens / _TOKENS_PER_SENTENCE), 6)
    cast = r.sample(NAMES, min(len(NAMES), max(4, n // 12)))
    due: dict[int, list[str]] = {}
    numbers: dict[str, int] = {}
    parts: Text = []
    untold = list(cast)
    for i in range(n):
        asked = due.pop(i, [])
        space = " " if parts else ""
        if asked:
            name = asked[0]
            if len(asked) > 1:
                due.setdefault(i + 1, []).extend(asked[1:])
            parts.append((f"{space}{_question(name)}", PROSE))
            parts.append((f" {numbers[name]}.", RECALL))
        elif untold and (not numbers or r.chance(0.16)):
            name = untold.pop()
            numbers[name] = r.between(100, 999)
            parts.append((f"{space}{statement(name, numbers[name])}", PROSE))
            for _ in range(r.between(1, 3)):
                top = math.log(min(_LONGEST / _TOKENS_PER_SENTENCE, max(n - i, 2)))
                gap = max(2, int(math.exp(r.random() * top)))
                if i + gap < n:
                    due.setdefault(i + gap, []).append(name)
        else:
            parts.append((f"{space}{sentence(r, r.pick(cast))}", PROSE))
    return parts


def prose(r: Draw, n_tokens: int) -> Text:
    """A document: the story alone, or as a user's text with one question about it."""
    parts = story(r, n_tokens)
    known = [t for t, _ in parts if t.lstrip().startswith("The number of") and t.endswith(".")]
    if r.chance(0.75) or not known:
        return [(BOS, PROMPT), *parts, (EOS, PROSE)]
    words = r.pick(known).strip().rstrip(".").split()
    name, number = words[3], words[-1]
    text = "".join(t for t, _ in parts)
    user = user_text(f"{text}\n\nWhat is the number of {name}?", ())
    told = None if r.chance(0.3) else statement(name, int(number))
    (prompt, _), (reply, _) = exchange(user, f"Answer: {number}", told, "")
    return [(prompt, PROSE), (reply, COMPLETION)]


def text(seed: int, n_chars: int) -> str:
    """Prose of at least n_chars characters: what is measured on where no prompt is given.

    Equal arguments give equal text, a longer one begins with the shorter.
    """
    pieces, size, k = [], 0, 0
    while size < n_chars:
        piece = "".join(t for t, _ in story(Draw("text", seed, k), 3000)) + "\n\n"
        pieces.append(piece)
        size += len(piece)
        k += 1
    return "".join(pieces)


def drill(r: Draw) -> Text:
    """A short exercise of one step that the exams' worked answers are made of."""
    kind = r.below(9)
    if kind == 0:
        words = r.sample(WORDS + NAMES, r.between(3, 10))
        user, reply = f"Copy: {', '.join(words)}.", f"{', '.join(words)}."
    elif kind == 1:
        pool = WORDS + NAMES if r.chance(0.6) else [str(v) for v in range(10, 1000)]
        choices = r.sample(pool, r.between(3, 10))
        lines = "\n".join(f"{LETTERS[i]}. {c}" for i, c in enumerate(choices))
        wanted = r.pick(choices)
        user = f"Choices:\n{lines}\n\nWhich letter is {wanted}?"
        reply = walk(r, choices, wanted)
    elif kind == 2:
        a, b = r.between(10, 999), r.between(10, 999)
        user, reply = f"{a}+{b}", add(r, a, b)
    elif kind == 3:
        a = r.between(20, 999)
        b = r.between(10, a)
        user, reply = f"{a}-{b}", subtract(r, a, b)
    elif kind == 4:
        a, k = r.between(10, 999), r.between(2, 9)
        user, reply = f"{a}*{k}", times_digit(r, a, k)
    elif kind == 5:
        words = r.sample(WORDS + NAMES, r.between(4, 10))
        at = r.below(len(words) - 1)
        user = f"{', '.join(words)}. What comes after {words[at]}?"
        reply = neighbours(r, words, at, True)
    elif kind == 6:
        low, high = (10, 99) if r.chance(0.3) else (100, 999)
        values = r.sample(range(low, high + 1), r.between(2, 5))
        rows = list(zip(r.sample(WORDS, len(values)), values))
        most = r.chance(0.5)
        listed = ", ".join(f"{label} {value}" for label, value in rows)
        user, reply = f"{'Largest' if most else 'Smallest'}: {listed}", best(r, rows, most)
    elif kind == 7:
        people = r.sample(NAMES, r.between(3, 10))
        rows_of = list(zip(people, map(str, r.sample(range(10, 1000), len(people)))))
        name, value = r.pick(rows_of)
        listed = " ".join(f"{n} has {v}." for n, v in rows_of)
        if r.chance(0.5):
            user, reply = f"{listed} Who has {value}?", search(r, rows_of, value, name)
        else:
            user, reply = f"{listed} What has {name}?", search(r, rows_of, name, value)
    else:
        people = r.sample(NAMES, r.between(2, 6))
        values = r.sample(range(10, 1000), len(people))
        at = r.below(len(people))
        facts = " ".join(statement(p, v) for p, v in zip(people, values))
        user = f"{facts} What is the number of {people[at]}?"
        reply = statement(people[at], values[at])
    return exchange(user, reply, None, "")
