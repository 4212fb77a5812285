"""Files that are whole or absent: written aside, synced, renamed over the old one, synced again."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from engine.errors import OptionError, StoreError


def publish(path: Path, write: Callable[[BinaryIO], None], *, private: bool = False) -> None:
    """Replace `path` by what `write` puts into a file, or leave it as it was.

    A reader sees the old file or the new one, never a part; so does a machine that lost power
    (write, fsync, rename, fsync of the folder).

    Parameters
    ----------
    path : Path
        A symbolic link is followed, so that the file it names is replaced and not the link.
    write : callable
        Gets a binary file opened for writing (seekable).
    private : bool
        For its owner alone (0600): it holds what a model was asked or replied.

    Raises
    ------
    StoreError
        If the disk is full or the folder cannot be written; the old file is intact.
    """
    target = Path(os.path.realpath(path))
    temp = target.with_name(f".{target.name}.tmp.{os.getpid()}")
    mode = 0o600 if private else 0o666
    try:
        fd = os.open(temp, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            with open(fd, "w+b") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temp, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temp.unlink()
            raise
        sync_folder(target.parent)
    except OSError as error:
        raise StoreError(
            f"{path}: expected to write the file, found {error.strerror or error} "
            f"({free_bytes(target.parent)} bytes free)"
        ) from error


def publish_bytes(path: Path, data: bytes, *, private: bool = False) -> None:
    """`publish` for content that is already in memory."""

    def write(file: BinaryIO) -> None:
        file.write(data)

    publish(path, write, private=private)


def remove_stale(path: Path) -> None:
    """Delete what killed writers of `path` left behind; call it only while holding the lock."""
    target = Path(os.path.realpath(path))
    prefix = f".{target.name}.tmp."
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(target.parent)):
            if entry.name.startswith(prefix) and entry.name[len(prefix) :].isdigit():
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def check_output(path: Path, option: str, *, replace: bool) -> None:
    """Refuse an output path before anything is computed for it.

    Parameters
    ----------
    path : Path
    option : str
        The option that named it, for the message.
    replace : bool
        Whether an existing file may be replaced.

    Raises
    ------
    OptionError
        If it is a folder, a FIFO or a device, exists without leave, or its folder is missing or
        read-only.
    """
    try:
        target = Path(os.path.realpath(path))
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        mode = None
    except (OSError, ValueError) as error:
        raise OptionError(f"{option}: expected a path to write, found {error}") from error
    if mode is not None:
        if not stat.S_ISREG(mode):
            raise OptionError(
                f"{option}: expected a regular file, found {_kind(mode)} {str(path)!r}"
            )
        if not replace:
            raise OptionError(
                f"{option}: expected a new file, found {str(path)!r} "
                "(--resume continues it, --force starts over and keeps the old files aside)"
            )
    folder = target.parent
    if not folder.is_dir():
        raise OptionError(f"{option}: expected an existing folder, found {str(folder)!r}")
    probe = folder / f".{target.name}.tmp.{os.getpid()}"
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
        probe.unlink()
    except OSError as error:
        raise OptionError(
            f"{option}: expected a folder that can be written, found {error.strerror}: "
            f"{str(folder)!r}"
        ) from error


def check_folder(folder: Path, option: str) -> None:
    """Refuse a results folder before anything is computed for it; nothing is made.

    Parameters
    ----------
    folder : Path
        There, or to be made together with the folders above it.
    option : str
        The option that named it, for the message.

    Raises
    ------
    OptionError
        If it is a file, or cannot be made where it is named.
    """
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        is_folder = there.is_dir()
    except (OSError, ValueError) as error:
        raise OptionError(f"{option}: expected a folder, found {error}") from error
    if not is_folder:
        raise OptionError(f"{option}: expected a folder, found a file {str(there)!r}")
    if there != folder:
        # That a new name can be written there is what making the next folder takes.
        check_output(there / folder.absolute().relative_to(there.absolute()).parts[0], option,
                     replace=False)  # fmt: skip


def make_folder(folder: Path) -> None:
    """Make a results folder and those above it, durably, or take the one that is there.

    Raises
    ------
    StoreError
        If it cannot be made.
    """
    try:
        fresh = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in fresh or [folder]:
            sync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"{folder}: expected to make the folder, found {error.strerror}"
        ) from error


def sync_folder(folder: Path) -> None:
    """fsync a directory, so that a rename or a new name in it survives a power loss."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def free_bytes(folder: Path) -> int | str:
    """Bytes that this user can still write under `folder`; 'unknown' where nobody says."""
    try:
        status = os.statvfs(folder)
    except OSError:
        return "unknown"
    return status.f_bavail * status.f_frsize


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return name
    return "a device"
