"""Answers of the nano suite's questions from their words alone, in every kind and wording.

An independent reading: nothing of the generator is used; the groups of words are kept here again.
"""

from __future__ import annotations

import re

_GROUPS = {
    "fruit": "pear plum fig lime grape peach mango cherry",
    "animal": "otter lynx mole toad moose ferret hare goat",
    "tool": "hammer saw drill chisel wrench spade rake file",
    "color": "amber teal violet crimson olive ivory maroon gray",
    "metal": "iron zinc tin lead copper nickel silver cobalt",
    "bird": "heron raven crow swan stork finch robin gull",
    "tree": "oak elm pine birch cedar maple willow ash",
    "instrument": "flute violin harp drum oboe cello tuba horn",
}


def _numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def _arithmetic(text: str) -> int | None:
    """Sums, products, remainders and what is told of them; None if it is something else."""
    n = _numbers(text)
    if re.match(r"Find the sum of \d|What is \d+ \+|Today \w+ has .* and finds ", text):
        return sum(n)
    if re.match(r"Find \d+ minus|What is \d+ - |Today \w+ has .* sells ", text):
        return n[0] - sum(n[1:])
    if re.match(r"Find the product|What is \d+ times|There are \d+ boxes with", text):
        return n[0] * n[1]
    if re.match(r"Find the remainder when \d+ times", text):
        return sum(n[1] for _ in range(n[0])) % n[2]
    if re.match(r"Find the remainder|Today \w+ puts .* in rows of", text):
        return n[0] % n[1]
    if "multiples of" in text:
        low, high = n[1:] if "more than" in text else (0, n[1])
        return sum(v % n[0] == 0 for v in range(low + 1, high + 1))
    if text.startswith("How many full rows of"):
        return n[1] // n[0]
    if text.startswith(("A sequence has first term", "A row starts with")):
        first, step, at = n
        return [first + step * i for i in range(at)][-1]
    if "times as many" in text:
        return n[0] + n[0] * n[1]
    if text.startswith("Start with"):
        value = n[0]
        for act, by in re.findall(r"(Add|Subtract|Multiply by) (\d+)\.", text):
            value = {"A": value + int(by), "S": value - int(by), "M": value * int(by)}[act[0]]
        return value
    return None


def solve(text: str, choices: tuple[str, ...]) -> str | None:
    """The right choice's text, or the integer; None for words of no known kind."""
    numbers = _numbers(text)
    if (value := _arithmetic(text)) is not None:
        return str(value)
    if m := re.search(r"a kind of (\w+)\?", text):
        (member,) = [c for c in choices if c in _GROUPS[m[1]].split()]
        return member
    if re.match(r"(Find the sum of the largest|What is the largest plus)", text):
        return str(max(numbers) + min(numbers))
    if m := re.match(r"How many times is (\w+) in this list: (.*)\?", text):
        return str(re.findall(r"[a-z]+", m[2]).count(m[1]))
    if m := re.match(r"Count the word (\w+) in the list (.*)\.", text):
        return str(re.findall(r"[a-z]+", m[2]).count(m[1]))
    if text.startswith("A body has"):
        return str(numbers[0] * numbers[1])
    if text.startswith("Which of these measurements"):
        values = [int(c) for c in choices]
        return str(max(values) if "largest" in text else min(values))
    if text.startswith("Which number continues"):
        return str(2 * numbers[-1] - numbers[-2])
    if m := re.search(r"Which metal (?:melts at|weighs|boils at) (\d+) [A-Za-z]+\?", text):
        return re.search(rf"The (\w+) (?:melts at|weighs|boils at) {m[1]} ", text)[1]  # type: ignore[index]
    if m := re.search(r"Which metal has the (highest|lowest)", text):
        facts = re.findall(r"The (\w+) (?:melts at|weighs|boils at) (\d+)", text)
        pick = max if m[1] == "highest" else min
        return pick(facts, key=lambda fact: int(fact[1]))[0]
    if m := re.search(r"Which code does (\w+) keep\?", text):
        return re.search(rf"{m[1]} keeps code (\d+)\.", text)[1]  # type: ignore[index]
    if m := re.search(r"Who has (\d+) \w+\?", text):
        return re.search(rf"(\w+) has {m[1]} ", text)[1]  # type: ignore[index]
    if m := re.search(r"order (.*)\. Which word comes directly (after|before) (\w+)\?", text):
        words = m[1].split(", ")
        return words[words.index(m[3]) + (1 if m[2] == "after" else -1)]
    if m := re.search(r"Consider the list (.*)\. Which word is the (\w+)\?", text):
        ordinals = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"]
        return re.findall(r"[a-z]+", m[1])[ordinals.index(m[2])]
    if m := re.search(r"Where is (\w+)\?", text):
        return re.search(rf"{m[1]} is in the (\w+)\.", text)[1]  # type: ignore[index]
    if m := re.search(r"Who is in the (\w+)\?", text):
        return re.search(rf"(\w+) is in the {m[1]}\.", text)[1]  # type: ignore[index]
    return None
