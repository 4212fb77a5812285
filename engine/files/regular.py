"""Reading of files that others wrote: regular files only, and never more than a stated size.

A FIFO without a writer blocks for ever, /dev/zero never ends, and a large file is memory before
anybody has looked at its first line. Every reader of an outside file therefore opens it here, says
how much it is ready to take, and gets one error that names the file and what it is. The module
does not know any format; readers that unpack bound what comes out on their own.
"""

from __future__ import annotations

import os
import stat
from io import FileIO
from pathlib import Path

from engine.errors import EngineError, OptionError

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISSOCK, "a socket"),
)


def kind_of(mode: int) -> str:
    """What a file that is not regular is, for a message: 'a FIFO'."""
    return next((name for test, name in _KINDS if test(mode)), "a special file")


def open_regular(
    path: str | Path, subject: str = "", error: type[EngineError] = OptionError
) -> FileIO:
    """A regular file, open for unbuffered reading; links are followed.

    Parameters
    ----------
    path : str or Path
    subject : str
        What the message calls the file, e.g. '--prompt-file'; the path alone by default.
    error : type of EngineError
        What is raised.

    Raises
    ------
    EngineError
        Of the given type: there is none, it cannot be read, or it is no regular file. The cause
        is the operating system's own error where there was one.
    """
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "O_NOCTTY"):
        # Without O_NONBLOCK opening a FIFO would wait for a writer.
        flags |= getattr(os, name, 0)
    try:
        handle = os.open(path, flags)
    except (OSError, ValueError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else "a null byte in its name"
        raise error(_message(path, subject, "a readable file", str(reason))) from cause
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise error(_message(path, subject, "a regular file", kind_of(mode)))
    return FileIO(handle, "rb")


def read_regular(
    path: str | Path, limit: int, subject: str = "", error: type[EngineError] = OptionError
) -> bytes:
    """All bytes of a regular file of at most `limit` bytes.

    Parameters
    ----------
    path, subject, error
        As for `open_regular`.
    limit : int
        Bytes. Files of /proc and the like say 0 and hold more; they are held to it, too.

    Raises
    ------
    EngineError
        Of the given type: as for `open_regular`, or the file is larger.
    """
    with open_regular(path, subject, error) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise error(_message(path, subject, f"at most {limit} bytes", f"{size}"))
        try:
            data = _whole(file, limit + 1)
        except OSError as cause:
            raise error(_message(path, subject, "a readable file", f"{cause.strerror}")) from cause
    if len(data) > limit:
        raise error(_message(path, subject, f"at most {limit} bytes", "more"))
    return data


def _whole(file: FileIO, limit: int) -> bytes:
    """Until the end or the limit; a read may return less than it was asked for."""
    pieces = []
    while limit > 0 and (piece := file.read(min(limit, 16 << 20))):
        pieces.append(piece)
        limit -= len(piece)
    return b"".join(pieces)


def _message(path: str | Path, subject: str, expected: str, found: str) -> str:
    if subject:
        return f"{subject}: expected {expected}, found {found}: {str(path)!r}"
    return f"{path}: expected {expected}, found {found}"
