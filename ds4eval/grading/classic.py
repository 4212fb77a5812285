"""`ds4-classic`: the extraction and grading of the C program ds4-eval, byte for byte.

Facts taken from antirez/ds4 at the state of 2026-05-21: the text after the first close tag (all
of it without one) up to a NUL; the first "answer" in either case, also inside a word; a window
of 96 or 160 bytes from there; otherwise the last candidate of the text. Lenient where a careful
reader is not, so that scores published for that program can be reproduced and nothing more.
"""

from __future__ import annotations

import re

NONE = "?"
CLOSE_TAG = b"</think>"
LETTER_WINDOW, NUMBER_WINDOW = 96, 160
# Bytes that an answer may fill; longer ones are cut.
ANSWER_MAX = 31
LINE_COUNT = 256

_ANSWER = re.compile(rb"answer", re.IGNORECASE)
_DIGITS = re.compile(rb"[0-9]+")
# A number, and after optional blanks a dash and perhaps a second number.
_RANGE = re.compile(rb"([0-9]+)[ \t\n\v\f\r]*(?:(-)[ \t\n\v\f\r]*([0-9]*))?")


def extract(reply: bytes, kind: str, n_choices: int) -> tuple[str, str]:
    """Answer that the classic rules see in a reply.

    Parameters
    ----------
    reply : bytes
        The model's output, think block included.
    kind : str
        Of a question; words and LaTeX have no classic answer.
    n_choices : int
        For letters; 0 otherwise.

    Returns
    -------
    tuple of str
        Answer, '?' when there is none, and the step that found it: 'first-answer' (in the
        window), 'last' (the fallback) or 'none'.
    """
    text = reply.split(b"\0", 1)[0]
    _, tag, after = text.partition(CLOSE_TAG)
    visible = after if tag else text
    if kind not in ("letter", "integer", "lines"):
        return NONE, "none"  # the program has no such questions
    if kind == "letter":
        return _letter(visible, n_choices)
    if kind == "integer":
        return _integer(visible)
    found = _ANSWER.search(visible)
    if found:
        window = visible[found.start() : found.start() + NUMBER_WINDOW].split(b"\n", 1)[0]
        spec = _line_spec(window)
        if spec:
            return spec, "first-answer"
    return _integer(visible)


def matches(given: str, expected: str, kind: str) -> bool:
    """Whether the classic rules let an answer pass."""
    if kind == "letter":
        return given[:1] == expected[:1]
    if kind == "integer":
        return given == _strip_zeros(expected)
    want, got = _line_set(expected), _line_set(given)
    return bool(want) and bool(got) and got <= want


def _letter(visible: bytes, n_choices: int) -> tuple[str, str]:
    if n_choices <= 0:
        return NONE, "none"
    last = chr(ord("A") + n_choices - 1)
    # Digits, underscores and bytes above 127 are allowed neighbours.
    standalone = re.compile(rf"(?<![A-Za-z])[A-{last}a-{last.lower()}](?![A-Za-z])".encode("ascii"))
    found = _ANSWER.search(visible)
    if found:
        start = found.start()
        # The neighbour of the window's last byte is looked at, though it lies outside.
        match = standalone.search(visible, start)
        if match and match.start() < start + LETTER_WINDOW:
            return match.group().decode("ascii").upper(), "first-answer"
    final = None
    for match in standalone.finditer(visible):
        final = match
    return (final.group().decode("ascii").upper(), "last") if final else (NONE, "none")


def _integer(visible: bytes) -> tuple[str, str]:
    found = _ANSWER.search(visible)
    if found:
        digits = _DIGITS.search(visible[found.start() : found.start() + NUMBER_WINDOW])
        if digits:
            return _strip_zeros(digits.group().decode("ascii")), "first-answer"
    last = None
    for match in _DIGITS.finditer(visible):
        last = match
    return (_strip_zeros(last.group().decode("ascii")), "last") if last else (NONE, "none")


def _strip_zeros(digits: str) -> str:
    return (digits.lstrip("0") or digits[-1:])[:ANSWER_MAX]


def _line_spec(window: bytes) -> str:
    """Numbers and ranges of a window, joined by commas; empty when there are none."""
    spec = ""
    place = 0
    while match := _DIGITS.search(window, place):
        item = _RANGE.match(window, match.start())
        assert item is not None
        first, dash, last = item.groups()
        if spec and len(spec) < ANSWER_MAX:
            spec += ","
        spec += (first + (dash or b"") + (last or b"")).decode("ascii")
        spec = spec[:ANSWER_MAX]
        # The C loop steps over one byte after each item, even when blanks already led to the
        # next number: "9 15" is read as 9 and 5.
        place = item.end() + 1
    return spec.rstrip(",-")


def _line_set(spec: str) -> frozenset[int]:
    """Numbers of a specification; a dash without a second number counts as a range from 0."""
    found: set[int] = set()
    for first, dash, last in re.findall(r"([0-9]+)(-?)([0-9]*)", spec):
        low = int(first)
        high = int(last or "0") if dash else low
        low, high = min(low, high), max(low, high)
        found.update(range(low, min(high, LINE_COUNT - 1) + 1))
    return frozenset(found)
