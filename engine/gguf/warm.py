"""Reads a file once, so that what opens it next finds its pages in memory.

It knows neither what the file holds nor what is timed behind it.
"""

from __future__ import annotations

from pathlib import Path


def read_through(path: Path, chunk: int = 8 << 20) -> int:
    """Read a file to its end.

    Parameters
    ----------
    path : Path
    chunk : int
        Bytes asked for at once.

    Returns
    -------
    int
        Bytes read.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    buffer = bytearray(chunk)
    total = 0
    with open(path, "rb", buffering=0) as file:
        while n := file.readinto(buffer):
            total += n
    return total
