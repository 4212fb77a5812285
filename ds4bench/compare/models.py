"""Whether two records are of the same model files, as far as each of them says.

A record names every file by the hash of all its bytes, by its sampled identity
(`engine.gguf.identity`), or, in records of earlier releases, by its header and size alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_IDENTITIES = ("sha256", "sampled_sha256")


def names_of(files: Iterable[dict[str, Any]]) -> list[str]:
    """The best name that a record has for each file; two equal names are one model."""
    return [
        f.get("sha256")
        or (f"sampled:{f['sampled_sha256']}" if f.get("sampled_sha256") else _header_of(f))
        for f in files
    ]


def header_only(environment: dict[str, Any]) -> bool:
    """Whether a record knows a model file by its header alone."""
    files = environment.get("model")
    return isinstance(files, list) and any(
        not any(file.get(name) for name in _IDENTITIES) for file in files
    )


def header_only_notes(*environments: dict[str, Any]) -> list[str]:
    """A line for the reader where one of the records knows a model file by its header alone."""
    if not any(map(header_only, environments)):
        return []
    return [
        "model: header only: a record of an earlier release does not tell files with equal "
        "headers and other weights apart"
    ]


def same_headers(base: dict[str, Any], head: dict[str, Any], count: int) -> bool:
    """Whether the first `count` files agree in the most that both records say of them."""
    ours, theirs = base.get("model"), head.get("model")
    if not (isinstance(ours, list) and isinstance(theirs, list)):
        return False
    if min(len(ours), len(theirs)) < count:
        return False
    return all(_agree(a, b) for a, b in zip(ours[:count], theirs[:count]))


def _agree(a: dict[str, Any], b: dict[str, Any]) -> bool:
    for name in _IDENTITIES:
        if a.get(name) and b.get(name):
            return bool(a[name] == b[name])
    return _header_of(a) == _header_of(b)


def _header_of(file: dict[str, Any]) -> str:
    # A file's time stamp is no part of what it is.
    return f"header only {file.get('header_sha256')}:{file.get('size')}"
