"""Answers of the nano suite's questions from their words alone, for the kinds read here.

An independent reading: nothing of the generator is used. Kinds whose wording needs more than a
pattern (word problems in several steps, learned groups) give None.
"""

from __future__ import annotations

import re


def _numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def solve(text: str, choices: tuple[str, ...]) -> str | None:
    """The right choice's text, or the integer, or None."""
    numbers = _numbers(text)
    if m := re.match(r"Find the sum of (\d+) and (\d+)\.|What is (\d+) \+ (\d+)\?", text):
        return str(sum(int(g) for g in m.groups() if g))
    if m := re.match(r"Find the product of (\d+) and (\d+)\.|What is (\d+) times (\d+)\?", text):
        a, b = (int(g) for g in m.groups() if g)
        return str(a * b)
    if m := re.match(r"Find the remainder when (\d+) is divided by (\d+)\.", text):
        return str(int(m[1]) % int(m[2]))
    if m := re.match(r"How many positive multiples of (\d+) are at most (\d+)\?", text):
        return str(int(m[2]) // int(m[1]))
    if re.match(r"(Find the sum of the largest|What is the largest plus)", text):
        return str(max(numbers) + min(numbers))
    if text.startswith("A sequence has first term"):
        first, step, at = numbers
        return str(first + (at - 1) * step)
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
