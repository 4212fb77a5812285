"""How long the timed process may be silent before it is taken for hung.

The limit follows the pace that this machine has shown; nothing here ends a process.
"""

from __future__ import annotations

FIRST_TIMEOUT_S = 3600.0  # before anything is known about the machine's speed
LEAST_TIMEOUT_S = 60.0
TIMEOUT_FACTOR = 10.0


class Watchdog:
    """How long a request may take: ten times what the machine's pace so far predicts."""

    def __init__(self, fixed_s: float | None = None) -> None:
        self.fixed_s = fixed_s
        self._pace: dict[str, float] = {}

    def limit(self, what: str, n_tokens: int) -> float:
        """Seconds for `n_tokens` tokens of 'prefill' or of a mode's decode."""
        if self.fixed_s is not None:
            return self.fixed_s
        pace = self._pace.get(what)
        if pace is None:
            return FIRST_TIMEOUT_S
        return max(LEAST_TIMEOUT_S, TIMEOUT_FACTOR * pace * n_tokens)

    def observe(self, what: str, n_tokens: int, seconds: float) -> None:
        """Learn from a finished request; the slowest pace counts."""
        if n_tokens:
            self._pace[what] = max(self._pace.get(what, 0.0), seconds / n_tokens)
