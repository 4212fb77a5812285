"""The reference set's answers to what an engine asks of every kernel set."""

from __future__ import annotations


def facts() -> dict[str, str | int]:
    """Plain values for records."""
    return {"isa": "numpy float64"}


def set_threads(n: int | None) -> int:
    """One thread, whatever is asked for."""
    return 1


def notices() -> list[str]:
    """What a user should know."""
    return ["reference backend: NumPy float64, for comparisons, not for speed"]
