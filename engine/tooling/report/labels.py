"""Untrusted text made fit for one line, a legend or Markdown: it is shown and can do nothing."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

LENGTH = 40


def clean_label(text: str, length: int = LENGTH) -> str:
    """A label without control and format characters (bidi overrides included), cut to length."""
    kept = "".join(
        c if unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    return kept if len(kept) <= length else kept[: length - 1] + "…"


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
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", text)
    # A zero-width space breaks @mentions and bare links without being seen.
    text = text.replace("@", "@\u200b").replace("://", ":\u200b//")
    return re.sub(r"\s+", " ", text).strip()
