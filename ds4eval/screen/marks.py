"""Finds where in a reply the answer stands that each grader read, so that people can see it.

Records keep what a grader read and by which step, not where. The place is found again by the
graders' own order: the strict one reads the last line, the lenient one the last statement, the
classic one what follows the first "answer".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ds4eval.records.record import Sample

STRICT, LENIENT, CLASSIC = "strict", "lenient", "classic"
GRADERS = (STRICT, LENIENT, CLASSIC)
_NONE = ("", "?")
_WINDOW = 160  # characters behind "answer" that the C program reads
_BEFORE = 80  # characters in front of a value in which a statement begins


@dataclass(frozen=True, slots=True)
class Mark:
    """Characters `start` to `end` of a reply: the answer as a grader read it."""

    grader: str
    start: int
    end: int


def answer_from(sample: Sample) -> int | None:
    """Where the part behind the thinking begins; None if the thinking never ended."""
    opened = bool(sample.question.get("opened"))
    close = sample.output.find("</think>")
    if close >= 0:
        return close + len("</think>")
    return None if opened or sample.output.lstrip().startswith("<think>") else 0


def marks_of(sample: Sample) -> list[Mark]:
    """Places of the answers that the graders read, at most one for each."""
    start = answer_from(sample)
    begin = 0 if start is None else start
    reply = sample.output
    found = []
    if start is not None and sample.given not in _NONE:
        line = _last_line(reply, begin)
        values = _values(reply, sample.given, sample.kind, *line)
        place = values[-1] if values else line
        found.append(Mark(STRICT, *place))
    if start is not None and sample.lenient_given not in _NONE:
        values = _values(reply, sample.lenient_given, sample.kind, begin, len(reply))
        stated = [v for v in values if _states(reply[max(v[0] - _BEFORE, begin) : v[0]])]
        if values:
            found.append(Mark(LENIENT, *(stated or values)[-1]))
    if sample.classic_given not in _NONE:
        word = re.compile("answer", re.IGNORECASE).search(reply, begin)
        values = _values(reply, sample.classic_given, sample.kind, begin, len(reply))
        behind = [v for v in values if word and word.end() <= v[0] <= word.end() + _WINDOW]
        if values:
            found.append(Mark(CLASSIC, *(behind[0] if behind else values[-1])))
    return found


def _last_line(reply: str, begin: int) -> tuple[int, int]:
    """The last line that holds anything."""
    end = len(reply.rstrip())
    start = max(reply.rfind("\n", begin, end) + 1, begin)
    while start < end and reply[start].isspace():
        start += 1
    return start, max(end, start)


def _states(text: str) -> bool:
    last = text.rsplit("\n", 1)[-1].casefold()
    return "answer" in last or "boxed" in last or "option" in last


def _values(reply: str, given: str, kind: str, start: int, end: int) -> list[tuple[int, int]]:
    """Places where a value is written."""
    if kind == "letter":
        pattern = rf"(?<![A-Za-z]){re.escape(given)}(?![A-Za-z])"
    elif kind == "integer" and given.lstrip("-").isdigit():
        digits = r",?".join(given.lstrip("-"))
        pattern = rf"(?<![0-9.])[+\-−]?0*{digits}(?:\.0+)?(?![0-9])"
    elif kind == "lines":
        pattern = re.escape(re.split(r"[,-]", given)[0])
        pattern = rf"(?<![0-9]){pattern}(?![0-9])[0-9,\- \u2010-\u2015]*(?<![ ,])"
    else:
        pattern = re.escape(given)
    flags = re.IGNORECASE if kind == "letter" else 0
    return [match.span() for match in re.compile(pattern, flags).finditer(reply, start, end)]
