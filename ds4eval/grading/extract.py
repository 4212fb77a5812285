"""Reads answers out of reply text: sets thinking apart, finds answer lines, reads their values.

Nothing here looks at the key. Patterns are bounded, so that a megabyte on one line costs no more
than reading it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from ds4eval.grading.statements import LINE_MAX
from ds4eval.questions.question import LETTERS, MAX_LINE, Question, format_lines
from ds4eval.questions.spelling import begins, same_text, unwrapped

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
# Texts of tokens that end a turn, which some servers leave at the end of a reply.
END_TOKENS = (
    *("</s>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>"),
    *("<end_of_turn>", "<eos>", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
)

_LETTER = re.compile(r"([A-Z])\Z")
_LETTER_MORE = re.compile(r"([A-Z])(?:\s{0,4}[.):,\-]\s*|\s{1,4}(?=[(\[]))(\S.*)\Z", re.DOTALL)
_INTEGER = re.compile(r"([+-]?)([0-9]{1,60})\Z")
_GROUPED = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3}){1,6}\Z")
_LINES = re.compile(
    r"(?:lines?\s{0,4})?"
    r"([0-9]{1,6}(?:\s{0,4}-\s{0,4}[0-9]{1,6})?"
    r"(?:\s{0,4},\s{0,4}[0-9]{1,6}(?:\s{0,4}-\s{0,4}[0-9]{1,6})?){0,99})\Z",
    re.IGNORECASE,
)
# Characters that a reader cannot see; they must neither hide an answer nor part its letters.
_INVISIBLE = re.compile(
    r"[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u2069\ufeff]"
)
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]{0,32}[ -/]{0,8}[@-~]|\][^\x07\x1b]{0,4096}(?:\x07|\x1b\\))")
_DASHES = re.compile("[\u2010-\u2015\u2212]")
_DEGREES = re.compile(r"\s{0,4}(?:\^\s{0,2}(?:\\circ|\{\s?\\circ\s?\})|\\degree|\u00b0|degrees?)\Z")
_ZEROS = re.compile(r"(?<=[0-9])\.0{1,20}\Z")
# A reason is parted from its letter: "G as it burns" states G, "Gas" states no letter.
_REASON = re.compile(r"(?:\s{1,4}|\s{0,4},\s{0,4})(?:because|since|as)\b", re.IGNORECASE)
# A text that goes on behind the value, and mathematics set in a line of words.
_FORMULA = re.compile(
    r"\$\$?([^$\n]{1,400})\$\$?|\\\((.{1,400}?)\\\)|\\\[(.{1,400}?)\\\]", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Visible:
    """What of a reply counts as answer, and what became of its think block.

    `thinking`: 'none' (there was no block), 'closed', or 'open' (never closed: nothing counts).
    """

    text: str
    thinking: str


def visible_part(reply: str, opened: bool = False) -> Visible:
    """Part of a reply behind its thinking.

    Parameters
    ----------
    reply : str
        The model's output.
    opened : bool
        The prompt ended with an open think tag, so the output begins inside the block.

    Returns
    -------
    Visible
        Blocks that the answer part opens again are left out too, and stray close tags end a line.
    """
    inside = opened or reply.lstrip().startswith(THINK_OPEN)
    head, tag, rest = reply.partition(THINK_CLOSE)
    if not tag:
        if inside:
            return Visible("", "open")
        rest, thinking = head, "none"
    else:
        thinking = "closed"
    parts = []
    while True:
        before, again, inner = rest.partition(THINK_OPEN)
        parts.append(before)
        if not again:
            return Visible("".join(parts).replace(THINK_CLOSE, "\n"), thinking)
        _, closed, rest = inner.partition(THINK_CLOSE)
        if not closed:
            text = "".join(parts).replace(THINK_CLOSE, "\n")
            return Visible(text, "open")
        parts.append("\n")


def clean(text: str) -> str:
    """Text without escape sequences, invisible characters and end tokens, with one line end."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n")
    text = _INVISIBLE.sub("", _ESCAPES.sub("", text))
    while text.rstrip().endswith(END_TOKENS):
        text = text[: text.rfind("<")]
    return text


def last_line(text: str) -> str:
    """Last line that holds anything, '' when there is none or it is longer than LINE_MAX."""
    stripped = text.rstrip()
    line = stripped[stripped.rfind("\n") + 1 :].strip()
    return line if len(line) <= LINE_MAX else ""


def line_value(line: str) -> str | None:
    """What follows the marker of an answer line; None when the line is no answer line."""
    text = _unquoted(unicodedata.normalize("NFKC", line).strip())
    match = re.match(r"[*_`#>\s-]{0,12}(?:final\s{1,4})?answer[*_`\s]{0,6}:", text, re.IGNORECASE)
    if match is None:
        return None
    # `**Answer:** B` closes its bold type behind the colon.
    value = text[match.end() :].strip()
    return re.sub(r"^(?:\*\*|__|\*|_|`)(?=\s|$)", "", value).strip()


def _unquoted(line: str) -> str:
    """The line without bold or code marks around the whole of it."""
    for mark in ("**", "__", "*", "_", "`"):
        inner = line[len(mark) : -len(mark)]
        whole = len(line) > 2 * len(mark) and line.startswith(mark) and line.endswith(mark)
        if whole and mark not in inner:
            return inner.strip()
    return line


def read_value(value: str, question: Question, stated: bool = True) -> str | None:
    """Answer in canonical form if the value is one answer of the question's kind and no more.

    A letter may be followed by the beginning of its own choice's text, or by a reason; an integer
    may be written 70.0 or in degrees, or end a chain of equations, and keeps its sign.

    Parameters
    ----------
    value : str
    question : Question
    stated : bool
        The value stands behind words that call it the answer; without them, a reason or an
        equation is part of the reasoning.
    """
    if question.kind == "latex":
        return read_latex(value)
    text = unwrapped(value[: LINE_MAX * 4])
    if question.kind == "letter":
        return _read_letter(text, question.choices, stated)
    if question.kind == "integer":
        return _read_chain(text) if stated else _read_whole(text)
    if question.kind == "text":
        return " ".join(text.split())[:LINE_MAX] or None
    match = _LINES.match(_DASHES.sub("-", text))
    return _read_lines(match[1]) if match else None


def read_latex(value: str) -> str | None:
    """The formula of a value: what stands in dollars or a box, if all else is punctuation."""
    text = value.strip().strip("*_`").strip()
    formulas = _FORMULA.findall(text)
    if len(formulas) == 1:
        text = next(part for part in formulas[0] if part)
    boxed = re.match(r"\\(?:boxed|fbox)\s{0,4}\{(.*)\}[.\s]*\Z", text.strip(), re.DOTALL)
    if boxed:
        text = boxed[1]
    text = " ".join(text.split()).rstrip(" .;")
    return text[:LINE_MAX] or None


def _read_letter(text: str, choices: tuple[str, ...], stated: bool) -> str | None:
    letters = LETTERS[: len(choices)]
    upper = text.upper()
    if _LETTER.match(upper):
        return upper if upper in letters else None
    bare = re.match(r"([A-Z])[.):,;]\Z", upper)
    if bare:
        return bare[1] if bare[1] in letters else None
    head = re.match(r"[(\[]\s{0,4}([A-Za-z])\s{0,4}[)\]]\s*[.:,-]?\s*(.*)\Z", text, re.DOTALL)
    more = head or _LETTER_MORE.match(text[:1].upper() + text[1:])
    if more and more[1].upper() in letters:
        letter = more[1].upper()
        own = choices[letters.index(letter)]
        if same_text(more[2], own):
            return letter
        if begins(own, more[2]) and not any(same_text(more[2], other) for other in choices):
            return letter
    if stated and text[:1] and text[0] in letters and _REASON.match(text, 1):
        return text[0]
    return None


def _read_chain(text: str) -> str | None:
    """Last member of a chain such as m+n = 256+37 = 293; two equations are no chain."""
    before, equals, last = text.rpartition("=")
    if equals and (
        re.search(r"[,;]|\b(?:or|and|not)\b", before, re.IGNORECASE) or not before.strip()
    ):
        return None
    return _read_whole(unwrapped(last))


def _read_whole(text: str) -> str | None:
    """An integer, also written 70.0 or in degrees."""
    return read_integer(_ZEROS.sub("", _DEGREES.sub("", text)))


def read_integer(text: str) -> str | None:
    """Integer in canonical form: no leading zeros, no separators, a minus kept."""
    if _GROUPED.match(text):
        text = text.replace(",", "")
    match = _INTEGER.match(_DASHES.sub("-", text))
    if not match:
        return None
    digits = match[2].lstrip("0") or "0"
    return f"-{digits}" if match[1] == "-" and digits != "0" else digits


def _read_lines(spec: str) -> str:
    """Canonical line set; numbers that no question can have are kept, so that they fail."""
    found: set[int] = set()
    far: set[str] = set()
    for part in re.sub(r"\s", "", spec).split(","):
        first, _, last = part.partition("-")
        low, high = sorted((int(first), int(last or first)))
        found.update(range(low, min(high, MAX_LINE) + 1))
        if high > MAX_LINE:
            far.add(str(high))
    return ",".join(filter(None, (format_lines(found), *sorted(far))))
