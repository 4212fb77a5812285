r"""Splits what a server sends into documents: server-sent events, or plain JSON.

Lines end with \n, \r\n or \r and nothing else, as the standard of server-sent events has it: a
model may write U+2028, U+2029 or U+0085, at which `str.splitlines` and httpx split too.
"""

from __future__ import annotations

import json
import re
from typing import Any

_ENDS = re.compile(rb"\r\n|\n|\r")
DONE = "[DONE]"
# A reply of a million tokens with an event each takes some 300 MB; one event takes far less.
MAX_LINE = 1 << 24


class Lines:
    """Cuts bytes, which come in pieces of any size, into lines."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._size = 0
        self._after_cr = False

    def feed(self, data: bytes) -> list[bytes]:
        """Lines that are whole by now.

        Raises
        ------
        ValueError
            If one goes on for ever.
        """
        if self._after_cr and data[:1] == b"\n":
            data, self._after_cr = data[1:], False
        if not data:
            return []
        self._after_cr = data.endswith(b"\r")
        first, *rest = _ENDS.split(data)
        self._held.append(first)
        self._size += len(first)
        if self._size > MAX_LINE:
            raise ValueError(f"expected lines below {MAX_LINE} bytes, found a longer one")
        if not rest:
            return []
        lines = [b"".join(self._held), *rest[:-1]]
        self._held, self._size = [rest[-1]], len(rest[-1])
        return lines

    def rest(self) -> bytes:
        """What stands behind the last line end."""
        return b"".join(self._held)


class Documents:
    """Documents of a reply; `done` once the server said that nothing more comes."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._data: list[str] = []
        self._event = ""
        self._bare: list[str] = []
        self._any = False
        self.done = False

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Documents that are whole by now.

        Raises
        ------
        ValueError
            If one is no JSON object.
        """
        found: list[dict[str, Any]] = []
        for line in self._lines.feed(data):
            found += self._line(line.decode("utf-8", "replace"))
        return found

    def end(self) -> list[dict[str, Any]]:
        """What the end of the stream completes: a last event, or a reply in plain JSON.

        Raises
        ------
        ValueError
            If it is no JSON object.
        """
        found = self._line(self._lines.rest().decode("utf-8", "replace"))
        found += self._line("")
        text = "\n".join(self._bare).strip()
        if text and not self._any and not self.done:
            self.done = True
            found.append(_object(text))
        return found

    def _line(self, line: str) -> list[dict[str, Any]]:
        line = line.removeprefix("\ufeff")
        if not line:
            return self._dispatch()
        name, colon, value = line.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
        elif name == "event" and colon:
            self._event = value.strip()
        elif name not in ("", "id", "retry"):
            self._bare.append(line)
        return []

    def _dispatch(self) -> list[dict[str, Any]]:
        data, event = self._data, self._event
        self._data, self._event = [], ""
        texts = [text for text in data if text.strip()]
        if not texts:
            return []
        self._any = True
        try:
            found = _parsed("\n".join(texts))
        except ValueError:
            if len(texts) == 1:
                raise
            # Some servers forget the empty line between two events.
            found = [one for text in texts for one in _parsed(text)]
        if None in found:
            self.done = True
        whole = [one for one in found if one is not None]
        if event == "error":
            whole = [one if "error" in one else {"error": one} for one in whole]
        return whole


def _parsed(text: str) -> list[dict[str, Any] | None]:
    return [None] if text.strip() == DONE else [_object(text)]


def _object(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"expected JSON, found {text[:80]!r}") from None
    if not isinstance(document, dict):
        raise ValueError(f"expected an object, found {text[:80]!r}")
    return document
