r"""Reads what copies of the AIME write: keys, and which problem of which year a record is.

A key may be written as a number, with zeros in front, between dollar signs or with a degree sign;
two keys may both have been accepted. Ids differ from copy to copy. Nothing here knows a file.
"""

from __future__ import annotations

import re

from ds4eval.questions.question import ALTERNATIVE

MAX_KEY = 999
PER_PAPER, PER_YEAR = 15, 30
# The keys of both papers of 2025, problems 1 to 30. A copy that says another key is damaged, and
# a file that names no year is of 2025 only if it has these.
_KEYS_2025 = """
    70 588 16 117 279 504 821 77 62 81 259 510 204 60 735
    468 49 82 106 336 293 237 610 149 907 113 19 248 104 240
"""
KEYS = {f"aime2025-{n:02d}": key for n, key in enumerate(_KEYS_2025.split(), 1)}

_KEY = re.compile(r"([0-9]{1,31})(?:\.0{1,9})?\Z")
_DEGREES = re.compile(r"\s*(?:\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\circ|\\degree|\u00b0)\Z")
_BOTH = re.compile(r"(.+?)\s+or\s+(.+?)\s*\(\s*both\b[^()]*\baccepted\s*\)\s*\.?\Z", re.IGNORECASE)
_WRAPPED = re.compile(r"(?:\$\$?(.*?)\$\$?|\\\((.*)\\\)|\\boxed\s*\{(.*)\})\Z")
# 2025-I-7, I-14, AIME_2024 II 3, ...
_PAPER_ID = re.compile(
    r"(?:(?:aime[-_ ]?)?((?:19|20)[0-9]{2})[-_ ])?(?:aime[-_ ]?)?(II|I)[-_ ]([0-9]{1,2})",
    re.IGNORECASE,
)
# Before 2000 there was one paper a year.
_YEAR_ID = re.compile(r"(19[0-9]{2})[-_ ]([0-9]{1,2})")
_PAGE = re.compile(r"((?:19|20)[0-9]{2})_AIME(?:_(II|I))?_Problems/Problem_([0-9]{1,2})\Z")


def canonical_key(text: str) -> str | None:
    r"""Digits of a key, or two joined by `|` where both were accepted; None if it is no key.

    >>> canonical_key(r"336^\circ"), canonical_key("$070$")
    ('336', '70')
    >>> canonical_key("080 or 081 (both were accepted)")
    '80|81'
    """
    text = text.strip()
    both = _BOTH.match(text)
    if both:
        keys = [canonical_key(part) for part in both.groups()]
        if None in keys or any(ALTERNATIVE in str(key) for key in keys):
            return None
        return ALTERNATIVE.join(dict.fromkeys(str(key) for key in keys))
    for _ in range(3):
        before = text
        wrapped = _WRAPPED.match(text)
        if wrapped:
            text = next(group for group in wrapped.groups() if group is not None).strip()
        text = _DEGREES.sub("", text)
        if text == before:
            break
    match = _KEY.match(text)
    return (match[1].lstrip("0") or "0") if match else None


def place_of_id(value: object) -> tuple[int, int] | int | None:
    """(year, number) of an id that names its paper, a plain number as it is, None otherwise."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    if re.fullmatch(r"[0-9]{1,2}", text):
        return int(text)
    match = re.fullmatch(r"aime((?:19|20)[0-9]{2})-([0-9]{2})", text)
    if match:
        return int(match[1]), int(match[2])
    match = re.fullmatch(r"aime25-([0-9]{1,2})", text)
    if match:
        # NVIDIA's copy counts from 0.
        return 2025, int(match[1]) + 1
    match = _PAPER_ID.fullmatch(text)
    if match:
        return int(match[1] or 0), _number(match[2], match[3])
    match = _YEAR_ID.fullmatch(text)
    return (int(match[1]), int(match[2])) if match else None


def place_of_page(value: object) -> tuple[int, int] | None:
    """(year, number) out of the address of a problem's page in the AoPS wiki."""
    match = _PAGE.search(value.strip()) if isinstance(value, str) else None
    return (int(match[1]), _number(match[2] or "I", match[3])) if match else None


def _number(paper: str, problem: str) -> int:
    return int(problem) + (PER_PAPER if paper.upper() == "II" else 0)


def dataset_of(years: set[int]) -> str:
    """Name for a file with problems of these years: 'aime25', 'aime24', or 'aime' for several."""
    return f"aime{min(years) % 100:02d}" if len(years) == 1 else "aime"
