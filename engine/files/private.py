"""A private folder for what this program will trust when it reads it back: compiled kernels.

Compiled code is executed, so its folder is believed only where no other user could have put
anything there: the folder and every folder on the way to it belong to root or to this user, and
others may write none of them (one with the sticky bit, such as /tmp, lets nobody rename what is
not theirs). A place that fails this, cannot be made or cannot be written costs a notice and the
time to compile, never the run: a temporary folder serves this process, and where not even that can
be had, nothing is kept. The module does not know what is stored.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from engine.errors import StoreError

ENVIRONMENT = "DS4_KERNEL_CACHE"  # names another place than the user's cache
_MOST_LINKS = 40  # Linux follows no more, either
_PROBE = b"\0" * (64 << 10)  # bytes; what a full disk refuses


@dataclass(frozen=True, slots=True)
class PrivateFolder:
    """Where a cache may keep files.

    Attributes
    ----------
    path : Path or None
        None where nothing can be kept at all.
    lasts : bool
        Whether a later process finds the files again.
    notice : str
        Why the wanted place does not serve and what to do; empty where it does.
    """

    path: Path | None
    lasts: bool = True
    notice: str = ""


def kernel_folder(name: str) -> PrivateFolder:
    """The folder `name` among this user's compiled kernels, made if missing.

    Parameters
    ----------
    name : str
        One path component that holds everything which makes older files useless.
    """
    base = os.environ.get(ENVIRONMENT)
    try:
        root = Path(base) if base else Path(platformdirs.user_cache_dir("ds4bench")) / "kernels"
        return PrivateFolder(_made(root / name))
    except (OSError, StoreError, RuntimeError) as error:  # RuntimeError: no home folder
        reason = str(error)
    notice = (
        f"kernels: expected a cache folder that only this user can write, found {reason}; "
        f"{ENVIRONMENT} names another place, until then every start compiles anew"
    )
    try:
        folder = Path(tempfile.mkdtemp(prefix="ds4-kernels-"))
        atexit.register(_remove, folder, os.getpid())
        return PrivateFolder(_made(folder), lasts=False, notice=notice)
    except (OSError, StoreError):
        return PrivateFolder(None, lasts=False, notice=notice)


def _remove(folder: Path, pid: int) -> None:
    if os.getpid() == pid:  # a forked child leaves its parent's folder alone
        shutil.rmtree(folder, ignore_errors=True)


def _made(path: Path) -> Path:
    """Make a folder and its missing parents for this user alone; check it and everything above.

    Raises
    ------
    OSError
        The folder cannot be made or written.
    StoreError
        Somebody else could write it, or replace it.
    """
    path = Path(os.path.abspath(path))
    missing = []
    for folder in (path, *path.parents):
        if os.path.lexists(folder):
            break
        missing.append(folder)
    if missing:
        check_trusted(missing[-1].parent)
    for folder in reversed(missing):
        # Not `parents=True`, whose mode holds for the last folder only.
        folder.mkdir(mode=0o700, exist_ok=True)
    check_trusted(path)
    with tempfile.TemporaryFile(dir=path) as file:
        file.write(_PROBE)
        file.flush()
    return path


def check_trusted(path: Path) -> None:
    """Refuse a folder that another user could write, or replace together with a folder above it.

    Parameters
    ----------
    path : Path
        An existing folder; links on the way are followed, and checked where they lie.

    Raises
    ------
    OSError
        Something on the way cannot be read.
    StoreError
        Names the first folder that others could change.
    """
    if not hasattr(os, "getuid"):  # no POSIX owners: the user's profile is the boundary
        return
    todo = list(reversed(Path(os.path.abspath(path)).parts))
    here = Path(todo.pop())
    _check_one(here)
    n_links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            here = here.parent
            continue
        here = here / part
        if not here.is_symlink():
            _check_one(here)
            continue
        n_links += 1
        if n_links > _MOST_LINKS:
            raise StoreError(f"{path}: expected a folder, found a circle of links")
        _check_one(here)
        target = Path(os.readlink(here))
        parts = list(target.parts)
        if target.is_absolute():
            here = Path(parts.pop(0))
        else:
            here = here.parent
        todo += reversed(parts)


def _check_one(path: Path) -> None:
    """One folder or link on the way: a file there ends in the operating system's own error."""
    info = os.lstat(path)
    if info.st_uid not in (0, os.getuid()):
        raise StoreError(f"{path}, which belongs to user {info.st_uid}")
    if stat.S_ISLNK(info.st_mode):
        return  # a link has no mode of its own; who may replace it is decided by its folder
    by_group = info.st_mode & stat.S_IWGRP and not _is_own_group(info.st_gid)
    if (by_group or info.st_mode & stat.S_IWOTH) and not info.st_mode & stat.S_ISVTX:
        raise StoreError(f"{path}, which others can write")


def _is_own_group(gid: int) -> bool:
    """Whether a group is this user's private one, as systems with a umask of 002 make them."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return gid == user.pw_gid and group.gr_name == user.pw_name and not group.gr_mem
