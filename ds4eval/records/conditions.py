"""Compares the conditions of a run folder with those of a command that would go on with it."""

from __future__ import annotations

import json
from pathlib import Path

from ds4eval.documents import Document
from engine.errors import OptionError

# What the user set comes first, what follows from it last.
_RANK = {"temp": 0, "tokens": 0, "mode": 2, "draft": 2}


def difference(old: object, new: object, path: str = "") -> tuple[str, object, object] | None:
    """First place where two configurations part: dotted field, old value, new value."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted({*old, *new}, key=lambda name: (_RANK.get(name, 1), name))
        for name in names:
            inner = difference(old.get(name), new.get(name), f"{path}.{name}" if path else name)
            if inner is not None:
                return inner
        return None
    return None if old == new else (path, old, new)


def check_config(folder: Path, old: Document, new: Document) -> None:
    """Refuse to continue a run under other conditions.

    Raises
    ------
    OptionError
        Naming the field.
    """
    changed = difference(old, json.loads(json.dumps(new)))
    if changed is not None:
        name, before, after = changed
        raise OptionError(
            f"{folder}: expected the run's own {name} {before!r}, found {after!r} "
            "(another --out starts another run; --force moves this one aside)"
        )
