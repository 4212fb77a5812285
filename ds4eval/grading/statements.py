r"""Finds where a reply states its answer in words: what the lenient grader reads.

Answer lines and "the answer is ..." in several languages, TeX boxes, `<answer>` tags, fields of
JSON, "option B is correct". Values come out as they stand; what they mean is not known here.
Patterns are bounded, so that a megabyte costs no more than reading it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

# Values are read this far, and so many statements are looked at from the end.
LINE_MAX = 400
STATEMENTS_MAX = 64

_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,4}\{")
_GAP = "[ \t*_`\"']{0,6}"
_PHRASE = re.compile(
    r"\b(?:answers?|(?:correct|right|best|final)[ \t]{1,4}(?:option|choice|letter|result))\b"
    rf"{_GAP}(?::|\uff1a|=|\bis\b|\bare\b|\bwould be\b|\bmust be\b|\bshould be\b){_GAP}:?",
    re.IGNORECASE,
)
# The word for an answer, then a colon or a copula, perhaps with one word ("correcta") between.
_WORDS = (
    "antwort|respuesta|r\u00e9ponse|risposta|resposta|antwoord|svar|vastaus|v\u00e1lasz|cevap|yan\u0131t"
    "|jawaban|odpowied\u017a|odpov\u011b\u010f|r\u0103spuns|\u043e\u0442\u0432\u0435\u0442"
    "|\u0432\u0456\u0434\u043f\u043e\u0432\u0456\u0434\u044c|\u03b1\u03c0\u03ac\u03bd\u03c4\u03b7\u03c3\u03b7"
    "|\u0111\u00e1p \u00e1n|\u0909\u0924\u094d\u0924\u0930|\u09c9\u09a4\u09cd\u09a4\u09b0"
    "|\u0627\u0644\u0625\u062c\u0627\u0628\u0629|\u0627\u0644\u062c\u0648\u0627\u0628|\u05ea\u05e9\u05d5\u05d1\u05d4"
)
_NO = "no|non|nicht|nie|n\u00e3o|pas|\u043d\u0435|ikke|inte|niet|ei|nem"
_FOREIGN = re.compile(
    rf"(?<!\w)(?:{_WORDS})(?:[ \t]{{1,4}}(?!(?:{_NO})\b)\w{{1,12}})?{_GAP}"
    r"(?::|\uff1a|=|\b(?:ist|lautet|es|est|\u00e8|\u00e9|er|\u00e4r|is|jest|je|on)\b)"
    rf"{_GAP}(?:(?:la|el|le|die|der|das|o|a)[ \t]{{1,4}}"
    r"(?:opci\u00f3n|option|lettre|letra)[ \t]{1,4})?",
    re.IGNORECASE,
)
_EASTERN = re.compile(
    "(?:\u6b63\u786e)?(?:\u7b54\u6848|\u7b54\u3048|\u56de\u7b54|\u89e3\u7b54|\u6b63\u89e3|\uc815\ub2f5|\ub2f5)"
    "[ \t*_`]{0,4}(?::|\uff1a|=|\u5e94\u4e3a|\u5e94\u8be5\u662f|\u662f|\u4e3a|\u70ba|\u306f"
    "|\uc740|\ub294)"
    "[ \t*_`:\uff1a]{0,4}(?:\u9009\u9879|\u9078\u9805)?"
)
_TAG = re.compile(r"<answer>([^<]{1,400})</answer>", re.IGNORECASE)
_FIELD = re.compile(
    r"[\"'](?:final[_ ]?)?answer[\"']\s{0,4}:\s{0,4}"
    r"(?:\"([^\"\n]{1,400})\"|([^\s,}\"][^,}\n]{0,60}))",
    re.IGNORECASE,
)
_CORRECT = re.compile(
    r"\b(?:option|choice)[ \t]{1,4}([^\n]{1,12}?)[ \t]{1,4}is[ \t]{1,4}(?:the[ \t]{1,4})?"
    r"(?:correct|right|best)(?:[ \t]{1,4}(?:one|answer|option|choice))?"
    r"(?=[ \t*_]{0,4}(?:[.!\n]|\Z))",
    re.IGNORECASE,
)


class Statement(NamedTuple):
    """Where a statement begins, the text of its value, and how it was found."""

    place: int
    value: str
    rule: str


def statements(body: str) -> Iterator[Statement]:
    """Statements of a reply behind its thinking, in no order."""
    for pattern in (_PHRASE, _FOREIGN, _EASTERN):
        for match in _tail(pattern, body):
            value = body[match.end() : match.end() + LINE_MAX].lstrip(" \t").split("\n", 1)[0]
            if not value.strip(" *_`"):
                # The value may stand on the next line, as below a heading.
                rest = body[match.end() : match.end() + LINE_MAX].lstrip(" \t\n*_`")
                value = rest.split("\n", 1)[0]
            yield Statement(match.start(), value, "statement")
    for pattern, rule in ((_TAG, "tag"), (_FIELD, "field"), (_CORRECT, "statement")):
        for match in _tail(pattern, body):
            yield Statement(match.start(), next(g for g in match.groups() if g), rule)
    yield from boxes(body)


def boxes(body: str) -> list[Statement]:
    r"""Contents of the last `\boxed{...}` of a reply, in order."""
    found = []
    for match in _tail(_BOX, body):
        inner = _braced(body[match.end() : match.end() + LINE_MAX])
        if inner is not None:
            found.append(Statement(match.start(), inner, "boxed"))
    return found


def _tail(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """The last few matches; a list of all would let one reply fill the memory."""
    found: list[re.Match[str]] = []
    for match in pattern.finditer(text):
        found.append(match)
        if len(found) > 2 * STATEMENTS_MAX:
            del found[:STATEMENTS_MAX]
    return found[-STATEMENTS_MAX:]


def _braced(text: str) -> str | None:
    """Text up to the brace that closes one opened before it."""
    depth = 1
    for place, char in enumerate(text):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return text[:place]
    return None
