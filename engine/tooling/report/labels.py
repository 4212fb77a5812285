"""Untrusted text made fit for one line, a legend or Markdown: it is shown and can do nothing."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

LENGTH = 40
# What begins a list, a rule or a heading of the line above, but no negative number.
_BLOCK = re.compile(r"^(?:[-+](?= |$)|-(?=[- ]*$)|=(?==*$)|\d{1,9}(?=[.)](?: |$)))")


def clean_label(text: str, length: int = LENGTH) -> str:
    """A label without control and format characters (bidi overrides included), cut to length."""
    kept = "".join(
        c if unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    return kept if len(kept) <= length else kept[: length - 1] + "…"


def clean_text(text: str) -> str:
    """Text of several lines without control and format characters but tabs and line feeds."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}"
        for c in text.replace("\r\n", "\n")
    )


def clean_values(value: Any) -> Any:
    """JSON values with every text and name cleaned as by `clean_text`: a sink's cell for JSON."""
    if isinstance(value, dict):
        return {clean_text(str(name)): clean_values(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean_values(item) for item in value]
    return clean_text(value) if isinstance(value, str) else value


def unique_labels(labels: Sequence[str]) -> list[str]:
    """The same labels, numbered where one would stand for two things."""
    seen: dict[str, int] = defaultdict(int)
    out = []
    for label in labels:
        seen[label] += 1
        out.append(label if labels.count(label) == 1 else f"{label} ({seen[label]})")
    return out


def escape_markdown(text: str) -> str:
    """Text that Markdown (GitHub's) shows as it is: no markup, HTML, mentions, links or rows."""
    text = re.sub(r"\s+", " ", text).strip()
    text = clean_label(text, len(text))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", text)
    # At the start of a line these make lists, rules and headings of the line above.
    text = _BLOCK.sub(_kept_literal, text)
    # A zero-width space breaks @mentions and bare links without being seen.
    text = text.replace("@", "@\u200b").replace("://", ":\u200b//")
    return re.sub(r"\b(www)\.", "\\1\u200b.", text, flags=re.IGNORECASE)


def _kept_literal(found: re.Match[str]) -> str:
    """A backslash before punctuation, or behind the number of a list."""
    return found[0] + "\\" if found[0].isdigit() else "\\" + found[0]


def safe_cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula: such beginnings get an apostrophe.

    Blanks in front are passed over, since some spreadsheets trim them.
    """
    formula = text.lstrip()[:1] in ("=", "+", "-", "@") or text[:1] in ("\t", "\r", "\n")
    return "'" + text if formula and text else text
