"""Which file was opened: size, times, inode, hashes; and whether it is still that file.

Two published trunks have one header and other weights, so the header's hash does not say which
model a file is. `FileIdentity.sampled_sha256` does: it hashes the header and a few KiB from the
start, the middle and the end of every tensor, which costs megabytes where the whole file would
cost minutes. What was trained anew differs everywhere, so no piece of it stays. A single byte
that changed between the pieces is not seen; that is what the hash of the whole file is for.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import GGUFError
from engine.gguf import remembered

_WHOLE: dict[tuple[int, int, int, int], str] = {}
_SAMPLED: dict[tuple[str, str, tuple[int, ...]], str] = {}
_CHUNK = 8 << 20
# A file of up to this size is read whole for its identity, which takes about 0.1 s.
READ_WHOLE = 64 << 20
# Bytes read of a larger one, shared out among the starts, middles and ends of its tensors: 3 KiB
# each for the 1,328 tensors of a published trunk.
MAX_SAMPLE = 12 << 20
_STEP = 512
_MIN_PIECE = 1 << 10
# Part of what is hashed: another way of sampling must never give an equal identity.
_SCHEME = b"ds4 sampled identity 1\n"


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
    spans : tuple of (int, int)
        Where every tensor begins and ends in the file, in bytes.
    """

    path: Path
    size: int
    mtime_ns: int
    dev: int
    ino: int
    header_sha256: str
    parts: tuple[FileIdentity, ...] = ()
    spans: tuple[tuple[int, int], ...] = field(default=(), repr=False, compare=False)
    _own: list[str] = field(default_factory=list, repr=False, compare=False)

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

    def sampled_sha256(self) -> str:
        """The model's identity: hash of the header and of pieces of every tensor.

        Computed once, and then kept whatever becomes of the file: it is of the one that was
        opened. Of large files the user's cache remembers it (`engine.gguf.remembered`). A split
        model's is the hash of its parts' hex digests in order.

        Raises
        ------
        GGUFError
            If the file cannot be read or is no longer the one that was opened.
        """
        if not self._own:
            self._own.append(
                join_hashes(part.sampled_sha256() for part in self.parts)
                if self.parts
                else self._sampled()
            )
        return self._own[0]

    def _sampled(self) -> str:
        if not self.unchanged():
            raise self._changed()
        try:
            # The time of the inode's change: nobody can set it back.
            known = (str(self.path), self.header_sha256, tuple(remembered.stamp(self.path)))
            if known not in _SAMPLED:
                facts = remembered.recall(self.path, self.header_sha256)
                found = facts.get("sampled_sha256") or self._sample()
                if not self.unchanged():
                    raise self._changed()
                _SAMPLED[known] = found
                if "sampled_sha256" not in facts:
                    remembered.remember(self.path, self.header_sha256, sampled_sha256=found)
        except OSError as error:
            raise GGUFError(
                f"{self.path}: expected a readable file, found {error.strerror}"
            ) from error
        return _SAMPLED[known]

    def _sample(self) -> str:
        """Read the pieces and hash them behind the header's hash."""
        digest = hashlib.sha256(_SCHEME + self.header_sha256.encode())
        with open(self.path, "rb", buffering=0) as file:
            fd = file.fileno()
            if self.size > READ_WHOLE and hasattr(os, "posix_fadvise"):
                # Else the system reads ahead of every piece, many times what is asked for.
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            for start, end in pieces(self.spans, whole=self.size <= READ_WHOLE):
                while start < end:
                    data = os.pread(fd, min(end - start, _CHUNK), start)
                    if not data:
                        raise self._changed()
                    digest.update(data)
                    start += len(data)
        return digest.hexdigest()

    def _changed(self) -> GGUFError:
        return GGUFError(f"{self.path}: expected the file that was opened, found a changed one")


def pieces(spans: tuple[tuple[int, int], ...], whole: bool) -> Iterator[tuple[int, int]]:
    """What is read of every tensor: start, middle and end, or all of a small one.

    Parameters
    ----------
    spans : tuple of (int, int)
        Where the tensors begin and end, in bytes.
    whole : bool
        Read all of every tensor.
    """
    share = MAX_SAMPLE // (3 * max(len(spans), 1)) // _STEP * _STEP
    size = max(share, _MIN_PIECE)
    for start, end in spans:
        if whole or end - start <= 3 * size:
            yield start, end
            continue
        middle = start + (end - start - size) // 2
        yield start, start + size
        yield middle, middle + size
        yield end - size, end


def join_hashes(hashes: Iterable[str]) -> str:
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
