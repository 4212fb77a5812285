"""Tells whether two texts are one answer in two spellings.

Typesetting, character width, case and spaces make no difference; words do.
"""

from __future__ import annotations

import re
import unicodedata

_WRAPPED = re.compile(
    r"(?:\\boxed|\\text|\\textbf|\\mathrm|\\mathbf|\\fbox)\s{0,4}\{\s{0,4}(.*?)\s{0,4}\}\Z",
    re.DOTALL,
)
_PAIRS = tuple(
    (pair.split()[0], pair.split()[1])
    for pair in (
        "( )", "[ ]", "{ }", "< >", "\\( \\)", "\\[ \\]", "$$ $$", "$ $", "** **", "__ __",
        "* *", "_ _", "` `", '" "', "' '", "\u201c \u201d", "\u2018 \u2019",
    )
)  # fmt: skip


def unwrapped(value: str) -> str:
    """Value without brackets, quotes, TeX boxes, emphasis and a final full stop around it."""
    text = unicodedata.normalize("NFKC", value).strip()
    for _ in range(12):
        before = text
        if len(text) > 1 and text[-1] in ".;!" and not text.endswith("\\!"):
            text = text[:-1].rstrip()
        wrapped = _WRAPPED.match(text)
        if wrapped and _balanced(wrapped[1]):
            text = wrapped[1]
        for opening, closing in _PAIRS:
            size = len(opening) + len(closing)
            if len(text) > size and text.startswith(opening) and text.endswith(closing):
                inner = text[len(opening) : -len(closing)]
                if opening not in inner and closing not in inner:
                    text = inner.strip()
                    break
        if text == before:
            return text
    return text


def _balanced(text: str) -> bool:
    depth = 0
    for char in text:
        depth += (char == "{") - (char == "}")
        if depth < 0:
            return False
    return depth == 0


def plain(text: str) -> str:
    """Text reduced to what makes two spellings of a choice equal."""
    text = unicodedata.normalize("NFKC", unwrapped(text)).casefold()
    return re.sub(r"[\s$\\{}]+", "", text).rstrip(".")


def same_text(a: str, b: str) -> bool:
    return plain(a) == plain(b)


def begins(whole: str, part: str) -> bool:
    """Whether a text is the beginning of another, to the end of a word; an ellipsis may follow."""
    part = re.sub(r"(?:\.{2,}|\u2026)\s*\Z", "", part.strip())
    words, first = (re.findall(r"\S+", plain_words(text)) for text in (whole, part))
    return bool(first) and first == words[: len(first)]


def plain_words(text: str) -> str:
    """Text without case and typesetting, its words still apart."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[$\\{}]+", "", text).rstrip(" .,;")
