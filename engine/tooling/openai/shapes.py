"""Reads the fields of a reply in every shape that servers give them; what is unknown is None.

A field of a kind that no server is known to send is an error and not a guess.
"""

from __future__ import annotations

import re
from typing import Any

_TEXT_PARTS = ("", "text", "output_text")
_THOUGHT_PARTS = ("thinking", "reasoning", "reasoning_text")
# The server itself says that the reply did not come to its end.
BROKEN = frozenset({"error", "abort", "cancelled"})


def text_of(value: object, name: str, kinds: tuple[str, ...] = _TEXT_PARTS) -> str:
    """Text of a field that is text, null, or a list of parts; parts of other kinds are left out.

    Raises
    ------
    ValueError
        If it is something else.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        if str(value.get("type") or "") not in kinds:
            return ""
        inner = next((value[k] for k in ("text", "thinking", "content") if k in value), None)
        return text_of(inner, name)
    if isinstance(value, list):
        return "".join(text_of(part, name, kinds) for part in value if _fits(part, kinds))
    raise ValueError(f"{name}: expected text, found {type(value).__name__}")


def _fits(part: object, kinds: tuple[str, ...]) -> bool:
    """A part without a kind is text."""
    return "" in kinds or isinstance(part, dict)


def thoughts_of(message: dict[str, Any]) -> str:
    """The thinking in a message or a piece of one, under whichever name it comes first."""
    for name in ("reasoning_content", "reasoning"):
        value = message.get(name)
        if value:
            return text_of(value, name, (*_TEXT_PARTS, *_THOUGHT_PARTS))
    content = message.get("content")
    return text_of(content, "content", _THOUGHT_PARTS) if isinstance(content, list) else ""


def message_of(choice: dict[str, Any]) -> dict[str, Any]:
    """The message of a choice, or the piece of one that it brings."""
    for name in ("delta", "message"):
        value = choice.get(name)
        if isinstance(value, dict) and value:
            return value
    return {"content": choice["text"]} if choice.get("text") else {}


def choices_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The first choice of a document, where it has one; a request asks for no second."""
    value = document.get("choices")
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"choices: expected a list, found {type(value).__name__}")
    return [one for one in value if isinstance(one, dict) and one.get("index") in (None, 0)]


def count_of(value: object) -> int | None:
    """A number of tokens; texts of digits count, anything else is unknown."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return value if 0 <= value < 2**53 else None
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}", value.strip()):
        return int(value)
    return None


def finish_of(value: object) -> str:
    """A finish reason as one word; '' where there is none (SGLang once sent objects)."""
    if isinstance(value, dict):
        value = value.get("type")
    return value.strip().lower()[:60] if isinstance(value, str) else ""


def whole_text(text: str) -> str:
    """Text with halves of characters joined, which may come in two pieces, or replaced."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
