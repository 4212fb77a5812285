"""Keeps one copy of what many rows of a file have in common, so that a long sweep fits in memory.

Rows say their mode, status and class of text, and how many tokens each step gave; that is the same
a hundred thousand times over. Values are shared between equal rows only, and never changed.
"""

from __future__ import annotations

from typing import Any

from ds4bench.records.rows import SpeedRow, Telemetry

_MOST = 4096  # different values that are kept; what is different each time is not shared
_FIELDS = ("mode", "status", "message", "text_class", "prefix", "token_hash", "step_tokens",
           "drafted_by_depth", "accepted_by_depth")  # fmt: skip
_NOTHING = Telemetry()


class Shared:
    """The values that rows of one file were seen to have."""

    def __init__(self) -> None:
        self._seen: dict[Any, Any] = {}

    def row(self, row: SpeedRow) -> SpeedRow:
        """The same row, which no one else may hold yet, with shared values."""
        seen = self._seen
        for name in _FIELDS:
            value = getattr(row, name)
            if value:
                known = seen.get(value)
                if known is not None:
                    object.__setattr__(row, name, known)
                elif len(seen) < _MOST:
                    seen[value] = value
        if row.telemetry == _NOTHING:
            object.__setattr__(row, "telemetry", _NOTHING)
        return row
