"""Reading text that a user names: strict UTF-8, a size limit, errors with file and byte."""

from __future__ import annotations

from pathlib import Path

from engine.errors import TextError
from engine.files.regular import read_regular

MAX_BYTES = 64 << 20


def read_text(path: str | Path, option: str = "file", max_bytes: int = MAX_BYTES) -> str:
    """Text of a UTF-8 file, a leading byte order mark removed.

    Line endings stay as they are.

    Parameters
    ----------
    path : path
    option : str
        What the error calls the file, e.g. '--prompt-file'.
    max_bytes : int

    Raises
    ------
    OptionError
        If it is no regular file, cannot be read, or is larger than the limit.
    TextError
        If it is not UTF-8; names the file, the line and the byte offset.
    """
    raw = read_regular(path, max_bytes, option)
    return decode_text(raw, str(path))


def decode_text(raw: bytes, name: str) -> str:
    """Strict UTF-8 text of bytes, a leading byte order mark removed.

    Raises
    ------
    TextError
        With the name, line and offset of the first byte that is not UTF-8.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise TextError(
            f"{name}: expected UTF-8, found byte 0x{raw[error.start]:02X} at offset "
            f"{error.start} (line {line}): {error.reason}"
        ) from None
    return text.removeprefix("\ufeff")
