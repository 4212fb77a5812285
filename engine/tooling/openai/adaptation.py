"""Adapts a request to a server that refuses one of its fields: renames the field, or leaves it out.

It reads the words of a refusal and knows nothing of what the fields mean to the caller.
"""

from __future__ import annotations

import re
import threading
from typing import TypeAlias

Document: TypeAlias = "dict[str, object]"

# Without these there is no request; a server that refuses one of them cannot be asked.
NEEDED = ("model", "messages", "prompt")
BUDGET, BUDGET_TOO = "max_tokens", "max_completion_tokens"
_TOO_LARGE = re.compile(r"too (?:large|high|big)|at most|less than|exceed|<=", re.IGNORECASE)


class Adaptation:
    """Fields that one server refused, once each; shared by all of its connections.

    Parameters
    ----------
    kept : collection of str
        Fields that the user named: these are never left out.
    """

    def __init__(self, kept: Document | None = None) -> None:
        self._kept = frozenset(kept or ())
        self._changed: dict[str, str] = {}  # field, or field.inner, to its new name; '' for none
        self._lock = threading.Lock()

    def apply(self, body: Document) -> tuple[Document, list[str]]:
        """The request as the server takes it, and what was changed for it."""
        with self._lock:
            changed = dict(self._changed)
        notes = []
        body = dict(body)
        for name, new in changed.items():
            outer, _, inner = name.partition(".")
            value = body.get(outer)
            if inner and isinstance(value, dict) and inner in value:
                body[outer] = {k: v for k, v in value.items() if k != inner}
            elif not inner and outer in body:
                body.pop(outer)
                if new:
                    body[new] = value
            else:
                continue
            notes.append(f"{name} sent as {new}" if new else f"{name} not sent")
        return body, notes

    def refused(self, said: str, body: Document) -> str | None:
        """What to do about a refusal that names a field of the request, in words; None: nothing.

        '' when another connection has dealt with the field since this request was sent.
        """
        name = self._named(said, body)
        if name is None:
            return None
        new = BUDGET_TOO if name == BUDGET else ""
        with self._lock:
            if name in self._changed:
                return ""
            self._changed[name] = new
        return f"the server refused {name}; it is " + (f"sent as {new}" if new else "not sent")

    def _named(self, said: str, body: Document) -> str | None:
        """The field of the request, or field.inner, that a message names first."""
        names = [name for name in body if name not in NEEDED and name not in self._kept]
        inner = [
            f"{name}.{key}"
            for name in names
            for value in [body[name]]
            if isinstance(value, dict)
            for key in value
        ]
        found = []
        for name in (*names, *inner):
            word = name.rpartition(".")[2]
            match = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", said)
            if match:
                # A field goes before what lies in another one.
                found.append((match.start(), "." in name, name))
        if not found:
            return None
        name = min(found)[2]
        if name in (BUDGET, BUDGET_TOO) and BUDGET_TOO not in said and _TOO_LARGE.search(said):
            return None  # it is the user's number that is refused, and not the field
        return None if name == BUDGET_TOO else name
