"""Worked steps of the thinking part: each can be made by copying from near by or a small table.

Wording varies only where nothing is decided: a token that decides something (' yes', ' borrow',
' so' after the last column) has one spelling, or greedy decoding would compare the decision's
parts with the undivided alternative.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.nano.words import LETTERS, Draw

# Equally likely, so that a draft of the next token is a guess there.
_SEPARATORS = (", ", "; ", " then ", " next ")
_HEADS = (": ", " by digits: ", ", units first: ", " from the right: ")


def therefore(r: Draw) -> str:
    return r.pick(("so", "thus", "hence", "then"))


def _joined(r: Draw, steps: Sequence[str]) -> str:
    text = steps[0]
    for step in steps[1:]:
        text += r.pick(_SEPARATORS) + step
    return text


def add(r: Draw, a: int, b: int) -> str:
    """Column addition of a and b, units first."""
    x, y = str(a)[::-1], str(b)[::-1]
    carry, steps = 0, []
    for i in range(max(len(x), len(y))):
        p, q = int(x[i : i + 1] or 0), int(y[i : i + 1] or 0)
        total = p + q + carry
        steps.append(f"{p}+{q}+1={total}" if carry else f"{p}+{q}={total}")
        carry = total // 10
    return f"{a}+{b}{r.pick(_HEADS)}{_joined(r, steps)} so {a + b}."


def subtract(r: Draw, a: int, b: int) -> str:
    """Column subtraction b from a >= b, units first; a column that is too small borrows."""
    x, y = str(a)[::-1], str(b)[::-1]
    borrow, steps = 0, []
    for i in range(len(x)):
        p, q = int(x[i]), int(y[i : i + 1] or 0)
        taken = f"-{q}-1" if borrow else f"-{q}"
        rest = p - q - borrow
        borrow = int(rest < 0)
        steps.append(
            f"{p}{taken} borrow 1{p}{taken}={rest + 10}" if borrow else f"{p}{taken}={rest}"
        )
    return f"{a}-{b}{r.pick(_HEADS)}{_joined(r, steps)} so {a - b}."


def times_digit(r: Draw, a: int, k: int) -> str:
    """a times one digit, units first, the carry added in its own step."""
    carry, steps = 0, []
    for digit in map(int, str(a)[::-1]):
        product = digit * k
        total = product + carry
        steps.append(f"{digit}*{k}={product}" + (f"+{carry}={total}" if carry else ""))
        carry = total // 10
    return f"{a}*{k}{r.pick(_HEADS)}{_joined(r, steps)} so {a * k}."


def multiply(r: Draw, a: int, b: int) -> str:
    """a times b below 100: tens and units of b apart, then their sum."""
    if b < 10:
        return times_digit(r, a, b)
    tens, units = divmod(b, 10)
    parts = [f"{a}*{b} is {a}*{tens}0+{a}*{units}.", times_digit(r, a, tens)]
    if not units:
        return f"{a}*{b} is {a}*{tens}0. {parts[1]} With 0 {a * b}."
    parts += [times_digit(r, a, units), add(r, a * tens * 10, a * units)]
    return " ".join(parts)


def divide(r: Draw, a: int, m: int) -> str:
    """Long division of a by a digit m; says quotient and rest."""
    digits, rest = str(a), 0
    steps: list[str] = []
    for i, digit in enumerate(digits):
        value = rest * 10 + int(digit)
        if value < m and not steps and i + 1 < len(digits):
            rest = value
            continue
        rest = value % m
        steps.append(f"{value}={value // m}*{m}+{rest}")
    return (
        f"{a}/{m}{r.pick((': ', ' digit by digit: '))}{_joined(r, steps)} so {a // m} rest {rest}."
    )


def walk(r: Draw, choices: Sequence[str], wanted: str) -> str:
    """The choices' own lines again until the wanted one, then its letter."""
    at = choices.index(wanted)
    lines = [f"{LETTERS[i]}. {choice}" for i, choice in enumerate(choices[: at + 1])]
    start = r.pick(("Look for", "Find", "Search for", "Which choice is"))
    lines = [f"{start} {wanted}:", *lines]
    return "\n".join(lines) + f" yes, {therefore(r)} {LETTERS[at]}."


def compare(a: int, b: int) -> str:
    """Two numbers of as many digits, from the first digit to the one that decides."""
    x, y = str(a), str(b)
    if len(x) != len(y):
        return f"{len(x)} {'<' if len(x) < len(y) else '>'} {len(y)} digits"
    for i, (p, q) in enumerate(zip(x, y)):
        if p != q:
            return " ".join([f"{c}={c}" for c in x[:i]] + [f"{p}{'<' if p < q else '>'}{q}"])
    return "="


def best(r: Draw, rows: Sequence[tuple[str, int]], most: bool) -> str:
    """The rows one after another, each compared with the best so far.

    Parameters
    ----------
    rows : sequence of (str, int)
        Label and value; values differ.
    """
    top = rows[0]
    lines = [f"{r.pick(('First', 'Start with', 'Take'))} {top[0]} {top[1]}"]
    for label, value in rows[1:]:
        decided = compare(value, top[1])
        if (value > top[1]) == most:
            top = (label, value)
            lines.append(f"{label} {value}: {decided} new {label} {value}")
        else:
            lines.append(f"{label} {value}: {decided} keep {top[0]} {top[1]}")
    return "\n".join(lines) + f"\nThe best is {top[0]}."


def search(r: Draw, rows: Sequence[tuple[str, ...]], wanted: str, answer: str) -> str:
    """Stated rows again, shortened to their words, until the one that holds `wanted`.

    Copying in order needs no look-up of what stands before or behind a word far away.
    """
    lines = []
    for row in rows:
        lines.append(" ".join(row))
        if wanted in row:
            break
    start = r.pick(("Look for", "Find", "Search for", "We need"))
    return f"{start} {wanted}: {', '.join(lines)} yes, {therefore(r)} {answer}."
