"""Which file was opened: size, times, inode, hashes; and whether it is still that file."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from engine.errors import GGUFError

_WHOLE: dict[tuple[int, int, int, int], str] = {}
_CHUNK = 8 << 20


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """A model file as it was when opened.

    Parameters
    ----------
    path : Path
    size : int
        Bytes; the sum over the parts of a split model.
    mtime_ns, dev, ino : int
        As `os.stat` gives them; of the first part where a model is split.
    header_sha256 : str
        Hash of everything before the tensor data; of a split model, of its parts' header hashes.
    parts : tuple of FileIdentity
        The files of a split model; empty otherwise.
    """

    path: Path
    size: int
    mtime_ns: int
    dev: int
    ino: int
    header_sha256: str
    parts: tuple[FileIdentity, ...] = ()

    @property
    def key(self) -> tuple[int, int, int, int]:
        return self.dev, self.ino, self.size, self.mtime_ns

    def unchanged(self) -> bool:
        """True while the path leads to the same file, of the same size and time of change."""
        if self.parts:
            return all(part.unchanged() for part in self.parts)
        try:
            info = os.stat(self.path)
        except OSError:
            return False
        return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns) == self.key

    def sha256(self) -> str:
        """Hash of the whole file, computed once per (dev, ino, size, mtime) in this process.

        A split model's is the hash of its parts' hex digests in order.

        Raises
        ------
        GGUFError
            If the file cannot be read or is no longer the one that was opened.
        """
        if self.parts:
            return join_hashes(part.sha256() for part in self.parts)
        if not self.unchanged():
            raise self._changed()
        if self.key not in _WHOLE:
            digest = hashlib.sha256()
            try:
                with open(self.path, "rb", buffering=0) as file:
                    while chunk := file.read(_CHUNK):
                        digest.update(chunk)
            except OSError as error:
                raise GGUFError(
                    f"{self.path}: expected a readable file, found {error.strerror}"
                ) from error
            if not self.unchanged():
                raise self._changed()
            _WHOLE[self.key] = digest.hexdigest()
        return _WHOLE[self.key]

    def _changed(self) -> GGUFError:
        return GGUFError(f"{self.path}: expected the file that was opened, found a changed one")


def join_hashes(hashes) -> str:
    """One hash for several: SHA-256 of the hex digests in order."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def join_identities(path: Path, parts: tuple[FileIdentity, ...]) -> FileIdentity:
    """The identity of a model that lies in several files; `path` is the first."""
    first = parts[0]
    return FileIdentity(
        path=path,
        size=sum(part.size for part in parts),
        mtime_ns=first.mtime_ns,
        dev=first.dev,
        ino=first.ino,
        header_sha256=join_hashes(part.header_sha256 for part in parts),
        parts=parts,
    )
