"""Turns what a file holds into a dataclass, or says which field of which record is wrong.

Our own files come back from other machines, other releases and other hands: a checksum says that
a record is whole, not that it is true. A reader therefore names the dataclass that it expects and
what the annotations cannot say: the words a field may hold, the form of a hash, which numbers may
be negative. Types are compared by msgspec, strictly: no text becomes a number, no 5.0 a count.
Unknown fields are passed over, since a later release may have added them. The module knows no
format.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from engine.errors import EngineError, StoreError
from engine.files.regular import read_regular

T = TypeVar("T")

MOST_INTEGER = (1 << 64) - 1  # of a hash or a stream; no count comes near
MOST_DEPTH = 32  # of JSON values that no dataclass describes
MOST_LABEL = 500  # characters of a string that is neither a known word nor free text
HEX = re.compile(r"[0-9a-f]*")
# Names that we write: modes, sources, kinds, instruction sets, clock reasons joined by '+'.
NAME = re.compile(r"[A-Za-z0-9_.:+-]*")
# What a label never holds: control characters, and marks that turn the direction of text.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_SHOWN = 60  # characters of a wrong value in a message


@dataclass(frozen=True, slots=True)
class Rules:
    """What the annotations of a record's fields cannot say.

    Attributes
    ----------
    words : mapping of str to collection of str
        Fields that hold one of these.
    patterns : mapping of str to pattern
        Fields that must match in whole.
    text : mapping of str to int
        Free text with the most characters; it may hold anything, and sinks clean it.
    signed : collection of str
        Numbers that may be negative; all others must not.
    """

    words: Mapping[str, Collection[str]] = field(default_factory=dict)
    patterns: Mapping[str, re.Pattern[str]] = field(default_factory=dict)
    text: Mapping[str, int] = field(default_factory=dict)
    signed: Collection[str] = ()


def typed(
    kind: type[T],
    record: Mapping[str, object],
    rules: Rules,
    where: str,
    error: type[EngineError] = StoreError,
) -> T:
    """A dataclass or a typed dictionary out of JSON values.

    Parameters
    ----------
    kind : type
        Nested dataclasses are held to the same rules by their fields' names; what a nested
        dictionary holds, by the name of the field that it fills.
    record : mapping
    rules : Rules
    where : str
        File and record, for the message.
    error : type of EngineError

    Raises
    ------
    EngineError
        Of the given type, naming record and field: a field is missing, of another type, out of
        range or not of its vocabulary.
    """
    try:
        made = msgspec.convert(record, kind, strict=True)
    except msgspec.ValidationError as cause:
        raise error(f"{where}: {_worded(str(cause))}") from None
    except (TypeError, RecursionError) as cause:
        raise error(f"{where}: expected a record, found {type(cause).__name__}") from None
    return held(made, rules, where, error)


def held(made: T, rules: Rules, where: str, error: type[EngineError] = StoreError) -> T:
    """What another reader made, if its fields keep the rules; see `typed`.

    Raises
    ------
    EngineError
        Of the given type, naming record and field.
    """
    wrong = _wrong(made, rules)
    if wrong:
        raise error(f"{where}: {wrong}")
    return made


def check_shape(
    value: object, where: str, error: type[EngineError] = StoreError, depth: int = MOST_DEPTH
) -> None:
    """Refuse JSON values that a walk or a sum would fail on, where no dataclass describes them.

    Raises
    ------
    EngineError
        Of the given type: they are nested too deep, or a number is beyond any.
    """
    if depth == 0:
        raise error(f"{where}: expected {MOST_DEPTH} levels at most, found more")
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            check_shape(item, where, error, depth - 1)
    elif isinstance(value, (int, float)) and not abs(value) <= MOST_INTEGER:
        raise error(f"{where}: expected a number that can be, found {_shown(value)}")


def read_object(
    path: Path, limit: int, error: type[EngineError] = StoreError, subject: str = ""
) -> dict[str, Any]:
    """The JSON object that a regular file of at most `limit` bytes holds.

    Raises
    ------
    EngineError
        Of the given type: the file cannot be read or is too large, or holds anything else.
    """
    return object_of(read_regular(path, limit, subject, error), str(path), error)


def object_of(data: bytes, where: str, error: type[EngineError] = StoreError) -> dict[str, Any]:
    """The JSON object in `data`: strictly, so NaN and broken UTF-8 are none.

    Raises
    ------
    EngineError
        Of the given type, naming the byte where one is known.
    """
    try:
        found = msgspec.json.decode(data)
    except (ValueError, RecursionError) as cause:  # msgspec's own errors are ValueErrors
        reason = _lower(str(cause)) if isinstance(cause, ValueError) else "it nested too deep"
        raise error(f"{where}: expected JSON, found {reason}") from None
    if not isinstance(found, dict):
        raise error(f"{where}: expected a JSON object, found {type(found).__name__}")
    return found


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _worded(message: str) -> str:
    """msgspec's own message in our form: 'mode: expected `str`, found `int`'."""
    message, _, place = message.partition(" - at ")
    missing = re.fullmatch(r"Object missing required field `(.*)`", message)
    if missing:
        return f"{missing.group(1)}: expected a value, found none"
    message = _lower(message).replace(", got ", ", found ", 1)
    place = place.strip("`").removeprefix("$").removeprefix(".")
    return f"{place}: {message}" if place else message


def _wrong(made: Any, rules: Rules) -> str:
    """The first field that breaks a rule, in words; '' where none does."""
    mapped = type(made) is dict
    for name in made if mapped else _names(type(made)):
        value = made[name] if mapped else getattr(made, name)
        if value is None:
            continue
        kind = type(value)
        if kind is str:
            found = _wrong_text(name, value, rules)
        elif kind is int or kind is float:
            found = _wrong_number(name, value, rules)
        elif kind is bool:
            continue
        elif kind is tuple or kind is list:
            found = _wrong_items(name, value, rules)
        elif kind is dict:
            found = _wrong_items(name, (*value, *value.values()), rules)
        else:
            found = _wrong(value, rules)
        if found:
            return found
    return ""


_FIELDS: dict[type, tuple[str, ...]] = {}


def _names(kind: type) -> tuple[str, ...]:
    known = _FIELDS.get(kind)
    if known is None:
        known = _FIELDS[kind] = tuple(f.name for f in fields(kind))
    return known


def _wrong_items(name: str, items: Collection[object], rules: Rules) -> str:
    if name not in rules.signed and _plain_numbers(items):
        return ""
    for value in items:
        found = ""
        if type(value) is str:
            found = _wrong_text(name, value, rules)
        elif isinstance(value, (list, tuple)):
            found = _wrong_items(name, value, rules)
        elif isinstance(value, (int, float)) and type(value) is not bool:
            found = _wrong_number(name, value, rules)
        if found:
            return found
    return ""


def _plain_numbers(items: Collection[Any]) -> bool:
    """Whether all items are numbers from 0 to 1e18, by sums and bounds: most lists are, and long.

    A sum is finite only where no item is NaN; what is not plain is looked at item by item.
    """
    try:
        return math.isfinite(sum(items)) and min(items) >= 0 and max(items) <= 1e18
    except (TypeError, ValueError, OverflowError):
        return False


def _wrong_number(name: str, value: int | float, rules: Rules) -> str:
    if type(value) is float and not math.isfinite(value):
        return f"{name}: expected a finite number, found {value}"
    if value < 0 and name not in rules.signed:
        return f"{name}: expected 0 or more, found {value}"
    if abs(value) > (MOST_INTEGER if type(value) is int else 1e18):
        return f"{name}: expected a number that can be, found {_shown(value)}"
    return ""


def _wrong_text(name: str, value: str, rules: Rules) -> str:
    if name in rules.words:
        if value in rules.words[name]:
            return ""
        listed = ", ".join(sorted(rules.words[name])[:12])
        return f"{name}: expected one of {listed}, found {_shown(value)}"
    if name in rules.text:
        most = rules.text[name]
        return (
            ""
            if len(value) <= most
            else f"{name}: expected at most {most} characters, found {len(value)}"
        )
    if len(value) > MOST_LABEL:
        return f"{name}: expected at most {MOST_LABEL} characters, found {len(value)}"
    pattern = rules.patterns.get(name)
    if pattern is not None and not pattern.fullmatch(value):
        return f"{name}: expected {pattern.pattern}, found {_shown(value)}"
    if _UNSEEN.search(value):
        return f"{name}: expected visible characters, found {_shown(value)}"
    return ""


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
