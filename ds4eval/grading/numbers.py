r"""Reads numbers as people and models write them, exactly.

Integers, decimals, fractions and powers of ten; no units, no symbols. Values are compared as
fractions, so that 0.5, 1/2 and \frac{1}{2} are one number.
"""

from __future__ import annotations

import re
from fractions import Fraction

_DASHES = re.compile("[\u2010-\u2015\u2212]")
_DECIMAL = r"[0-9]{1,60}(?:\.[0-9]{0,60})?|\.[0-9]{1,60}"
_GROUPED = re.compile(r"[0-9]{1,3}(?:(?:,|\\,|\{,\}|\\!,|,\\!)[0-9]{3}){1,12}(?:\.[0-9]{1,60})?\Z")
_PLAIN = re.compile(rf"({_DECIMAL})(?:[eE]([+-]?[0-9]{{1,3}}))?\Z")
_SCIENTIFIC = re.compile(
    rf"({_DECIMAL})\s*(?:\\times|\\cdot|\u00d7|\*)\s*10\s*\^\s*(?:\{{\s*)?([+-]?[0-9]{{1,3}})\s*\}}?\Z"
)
_RATIO = re.compile(rf"({_DECIMAL})\s*/\s*({_DECIMAL})\Z")
_FRACTION = re.compile(
    rf"\\[dt]?frac\s*(?:\{{\s*(-?)({_DECIMAL})\s*\}}|([0-9]))\s*(?:\{{\s*({_DECIMAL})\s*\}}|([0-9]))\Z"
)


def number(text: str) -> Fraction | None:
    r"""Value of a text that is one number and nothing else, None otherwise.

    >>> number("3.50") == number(r"\frac{7}{2}") == number("7/2")
    True
    >>> number("1,234"), number("5 cm")
    (Fraction(1234, 1), None)
    """
    text = _DASHES.sub("-", text.strip())
    sign = -1 if text.startswith("-") else 1
    body = text[1:].lstrip() if text[:1] in ("-", "+") else text
    if _GROUPED.match(body):
        body = re.sub(r"\\!|\\|[{},]", "", body)
    value = _unsigned(body)
    return None if value is None else sign * value


def _unsigned(body: str) -> Fraction | None:
    if found := _PLAIN.match(body) or _SCIENTIFIC.match(body):
        return _decimal(found[1]) * Fraction(10) ** int(found[2] or 0)
    if found := _RATIO.match(body):
        top, bottom = found[1], found[2]
    elif found := _FRACTION.match(body):
        top, bottom = f"{found[1] or ''}{found[2] or found[3]}", found[4] or found[5]
    else:
        return None
    below = _decimal(bottom)
    return _decimal(top) / below if below else None


def _decimal(text: str) -> Fraction:
    return Fraction(f"{text}0" if text.endswith(".") else text)


def same_number(a: str, b: str) -> bool:
    """Whether both texts are numbers, and equal ones."""
    first, second = number(a), number(b)
    return first is not None and first == second
