"""Names the type of a JSON document: a journal record, a manifest, a configuration.

The members of a document that was read are of any kind; whoever reads one checks it.
"""

from __future__ import annotations

from typing import TypeAlias

Document: TypeAlias = "dict[str, object]"


def section(document: Document, name: str) -> Document:
    """A member that should be an object; empty when it is missing or something else."""
    found = document.get(name)
    return found if isinstance(found, dict) else {}
