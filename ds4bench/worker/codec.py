"""Dataclasses to JSON and back, by their annotations.

Understood are dataclasses and named tuples, `tuple[X, ...]`, `dict[K, X]`, `X | None`, paths and
plain JSON values; nothing else occurs in messages. This module knows no message.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_line(message: Mapping[str, object]) -> bytes:
    """One line of JSON, LF included; numbers must be finite.

    Raises
    ------
    TypeError, ValueError
        If a value is neither plain nor a path.
    """
    return json.dumps(message, allow_nan=False, default=_path_text).encode() + b"\n"


def _path_text(value: object) -> str:
    if not isinstance(value, Path):
        raise TypeError(f"message: expected plain values and paths, found {type(value).__name__}")
    return str(value)


def plain(value: object) -> object:
    """A dataclass as nested dictionaries."""
    assert is_dataclass(value) and not isinstance(value, type)
    return asdict(value)


def built(kind: type[T], values: Mapping[str, object]) -> T:
    """A dataclass out of JSON values; a missing or an unknown field is a TypeError."""
    hints = _hints(kind)
    unknown = values.keys() - hints.keys()
    if unknown:
        raise TypeError(f"{kind.__name__}: expected fields {', '.join(hints)}, found {unknown}")
    return kind(**{name: _value(hints[name], value) for name, value in values.items()})


def _hints(kind: type) -> dict[str, object]:
    found = get_type_hints(kind)
    assert is_dataclass(kind)
    return {field.name: found[field.name] for field in fields(kind)}


def _value(kind: object, value: object) -> Any:
    """`value` as json.loads left it, as the type that an annotation names."""
    arguments = get_args(kind)
    if get_origin(kind) in (Union, types.UnionType):
        if value is None:
            return None
        [kind] = [one for one in arguments if one is not types.NoneType]
        return _value(kind, value)
    if get_origin(kind) is tuple:
        return tuple(_value(arguments[0], item) for item in cast("list[object]", value))
    if get_origin(kind) is dict:
        pairs = cast("dict[str, object]", value).items()
        return {arguments[0](key): _value(arguments[1], item) for key, item in pairs}
    if isinstance(kind, type) and issubclass(kind, tuple):  # a NamedTuple
        return cast("Any", kind)(*cast("list[object]", value))
    if is_dataclass(kind) and isinstance(kind, type):
        return built(kind, cast("dict[str, object]", value))
    return Path(cast("str", value)) if kind is Path else value
