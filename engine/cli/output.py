"""A model's text on stdout as it is made; it knows terminals, not models."""

from __future__ import annotations

import sys
from typing import BinaryIO

from engine.tooling.exits import printable


class Output:
    """UTF-8 on stdout whatever the locale; on a terminal thinking is dim, controls are inert."""

    def __init__(self) -> None:
        self._sink: BinaryIO = sys.stdout.buffer
        self._terminal = self._sink.isatty()
        self._dim = False
        self._last = "\n"

    def write(self, text: str, dim: bool) -> None:
        if not text:
            return
        self._last = text[-1]
        if self._terminal:
            text = printable(text)
            if dim != self._dim:
                text = ("\x1b[2m" if dim else "\x1b[0m") + text
                self._dim = dim
        self._sink.write(text.encode("utf-8"))
        self._sink.flush()

    def end(self) -> None:
        """Leave the terminal in its own colours, at the start of a line."""
        tail = ("\x1b[0m" if self._dim else "") + ("" if self._last == "\n" else "\n")
        self._sink.write(tail.encode("ascii"))
        self._sink.flush()
