"""Reads the fields of a record under any of their published names.

Values come out as text, integers or lists of text; what a field means is not known here.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable

from ds4eval.questions.errors import DatasetError, place
from ds4eval.questions.files import Record, Records


def plain_name(name: str) -> str:
    """Column name without case, blanks and punctuation: 'Record ID' and 'record_id' are one."""
    return re.sub(r"[^0-9a-z]", "", name.casefold())


class Fields:
    """Columns of one file under plain names; two columns of one plain name are refused."""

    def __init__(self, records: Records) -> None:
        self.path = records.path
        self.names: dict[str, str] = {}
        for column in records.columns:
            name = plain_name(column)
            if name in self.names:
                raise DatasetError(
                    f"{records.path}: expected column names once each, "
                    f"found {self.names[name]!r} and {column!r}"
                )
            self.names[name] = column

    def first(self, aliases: Iterable[str]) -> str | None:
        """The file's name of the first alias that it has."""
        return next((self.names[alias] for alias in aliases if alias in self.names), None)

    def has(self, *aliases: str) -> bool:
        return all(alias in self.names for alias in aliases)

    def error(self, record: Record, field: str, rule: str, found: object) -> DatasetError:
        """Error that names file, record, field and, where known, the byte; long values cut."""
        shown = repr(found)
        if len(shown) > 60:
            shown = f"{shown[:57]}..."
        where = place(self.path, record.number, field, record.byte)
        return DatasetError(f"{where}: expected {rule}, found {shown}")

    def value(self, record: Record, aliases: Iterable[str]) -> tuple[str, object]:
        """(column name, value) of the first alias; a missing, null or NaN value is None."""
        aliases = tuple(aliases)
        column = self.first(aliases)
        if column is None:
            return aliases[0], None
        value = record.fields.get(column)
        if isinstance(value, float) and math.isnan(value):
            value = None
        return column, value

    def text(self, record: Record, aliases: Iterable[str], required: bool = True) -> str:
        """A field as text, outer blanks removed.

        Raises
        ------
        DatasetError
            If it is missing and required, or neither text nor a number.
        """
        column, value = self.value(record, aliases)
        if value is None:
            if required:
                raise self.error(record, column, "text", None)
            return ""
        if isinstance(value, bytes):
            try:
                value = value.decode("utf-8")
            except UnicodeDecodeError:
                raise self.error(record, column, "UTF-8 text", value) from None
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise self.error(record, column, "text", value)
        if isinstance(value, str) and "\0" in value:
            raise self.error(record, column, "text without NUL", value)
        text = str(value).strip()
        if required and not text:
            raise self.error(record, column, "text", value)
        return text

    def integer(self, record: Record, aliases: Iterable[str]) -> str:
        """A field as digits: 70, '070', ' 70 ' and 70.0 are 70; anything else is refused.

        Raises
        ------
        DatasetError
            If the value is no whole number of at least 0 in ASCII digits.
        """
        column, value = self.value(record, aliases)
        rule = "a whole number in digits 0-9"
        if isinstance(value, bool) or value is None:
            raise self.error(record, column, rule, value)
        if isinstance(value, float):
            if not value.is_integer():
                raise self.error(record, column, rule, value)
            value = int(value)
        text = str(value).strip() if isinstance(value, (str, int)) else ""
        match = re.match(r"([0-9]{1,31})(?:\.0{1,9})?\Z", text)
        if not match:
            raise self.error(record, column, rule, value)
        return match[1].lstrip("0") or "0"

    def texts(self, record: Record, aliases: Iterable[str]) -> tuple[str, ...]:
        """A field as a list of texts: lists, arrays, or lists written as text.

        Raises
        ------
        DatasetError
            If it is no list, or an element is no text.
        """
        column, value = self.value(record, aliases)
        if isinstance(value, str):
            value = _list_from_text(value)
        if hasattr(value, "tolist"):
            value = value.tolist()
        if isinstance(value, dict):
            keys = sorted(value)
            if [key.upper() for key in keys] == [chr(65 + i) for i in range(len(keys))]:
                value = [value[key] for key in keys]
        if not isinstance(value, (list, tuple)):
            raise self.error(record, column, "a list of texts", value)
        for i, item in enumerate(value):
            if isinstance(item, bool) or not isinstance(item, (str, int, float)):
                raise self.error(record, f"{column}[{i}]", "text", item)
        return tuple(str(item).strip() for item in value)


def _list_from_text(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > 1 << 16:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
