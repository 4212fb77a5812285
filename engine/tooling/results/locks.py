"""Who may write a results file: one process, by flock, with its owner named to the others."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path

from engine.errors import StoreError
from engine.tooling.results.typed import read_object

# flock is advisory or absent on these, and a lost lock costs somebody's rows.
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ncpfs", "glusterfs", "fuse.sshfs"}
)

_MOST_NOTE = 4096  # bytes


def owner_path(path: Path) -> Path:
    """Where the owner of the lock on `path` is written down."""
    return path.with_name(path.name + ".owner")


def lock(fd: int, path: Path) -> None:
    """Take the exclusive lock on an open file, without waiting, and write down the owner.

    The kernel drops the lock when the process ends, however it ends, so a stale lock cannot exist;
    a stale owner note can, and is overwritten.

    Raises
    ------
    StoreError
        If another process holds it; the message names pid, host and start.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreError(
            f"{path}: expected no other writer, found {describe_owner(path)}"
        ) from None
    except OSError as error:
        raise StoreError(f"{path}: expected a file that can be locked, found {error}") from error
    note = {"pid": os.getpid(), "host": socket.gethostname(), "start": _utc_now()}
    # The note only informs; the lock stands without it.
    with contextlib.suppress(OSError):
        owner_path(path).write_text(json.dumps(note), encoding="utf-8")


def unlock(fd: int, path: Path) -> None:
    """Drop the lock and its note. Never raises."""
    with contextlib.suppress(OSError):
        owner_path(path).unlink()
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)


def describe_owner(path: Path) -> str:
    """One phrase about the process that holds `path`, from its note."""
    try:
        note = read_object(owner_path(path), _MOST_NOTE)
        return f"pid {int(note['pid'])} on {note['host']!s:.64} since {note['start']!s:.32}"
    except (StoreError, ValueError, KeyError, TypeError):
        return "a process that left no note"


def file_system(path: Path) -> str:
    """Type of the file system that holds `path` (source: /proc/self/mountinfo), '' if unknown."""
    real = os.path.realpath(path)
    best, kind = "", ""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                left, _, right = line.partition(" - ")
                point = left.split()[4].encode().decode("unicode_escape", "replace")
                inside = real == point or real.startswith(point.rstrip("/") + "/")
                if inside and len(point) >= len(best):
                    best, kind = point, right.split()[0]
    except (OSError, IndexError):
        return ""
    return kind


def refuse_network_file_system(path: Path) -> None:
    """Raise StoreError when `path` lies where flock gives no promise.

    Raises
    ------
    StoreError
        On NFS, SMB and their kin.
    """
    kind = file_system(path)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StoreError(
            f"{path}: expected a local file system, found {kind} "
            "(locks do not hold there; --allow-network-fs takes the risk)"
        )


def _utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
