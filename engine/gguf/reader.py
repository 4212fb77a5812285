"""Opens a GGUF file, or the parts of a split one, as read-only mappings with checked headers."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import GGUFError
from engine.files.regular import kind_of
from engine.gguf.identity import FileIdentity, join_identities
from engine.gguf.parse import MIN_SIZE, Header, parse
from engine.gguf.tensor import Tensor
from engine.gguf.values import Metadata, escape

MAX_PARTS = 1024
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


class GGUFFile:
    """An open model file; tensors and arrays are views of the mapping.

    Attributes
    ----------
    path : Path
        The file that was asked for.
    metadata : Metadata
        Of the first part where the model is split.
    tensors : dict of str to Tensor
        In file order, over all parts.
    identity : FileIdentity
    version, alignment : int
        Of the first part.
    """

    def __init__(self, path: Path, parts: list[_Part], identity: FileIdentity):
        first = parts[0].header
        self.path = path
        self.identity = identity
        self.version = first.version
        self.alignment = first.alignment
        self.metadata = Metadata(first.values, first.types, escape(path.name))
        self.tensors: dict[str, Tensor] = {}
        self._maps = [part.map for part in parts]
        for part in parts:
            data = np.frombuffer(part.map, np.uint8)
            for info in part.header.tensors:
                if info.name in self.tensors:
                    raise GGUFError(
                        f"{escape(str(part.identity.path))}: tensor {info.name!a}: expected a new "
                        "name, found it in an earlier part too"
                    )
                view = data[info.start : info.end]
                self.tensors[info.name] = Tensor(info.name, info.format, info.shape, view)

    @property
    def closed(self) -> bool:
        return not self._maps

    @property
    def names(self) -> str:
        """The name that was asked for, and behind a link the name that its maker gave.

        Either may be the one that says something: users link one short name to what they run,
        and download caches link the published name to a hash.
        """
        return " ".join(dict.fromkeys((self.path.name, self.path.resolve().name)))

    def close(self) -> None:
        """Forget metadata and tensors; a mapping ends when no view of it is left.

        Views that a caller still holds stay valid.
        """
        self.metadata = Metadata({}, {}, self.metadata.source)
        self.tensors = {}
        for mapping in self._maps:
            with contextlib.suppress(BufferError):
                mapping.close()
        self._maps = []

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@dataclass(slots=True)
class _Part:
    map: mmap.mmap
    header: Header
    identity: FileIdentity


def open_gguf(path: str | os.PathLike[str]) -> GGUFFile:
    """Open a model file; of a split model the first part, the others lie beside it.

    Only regular files are read. Opening costs time and memory by the header's length, never by
    a number that the header claims.

    Raises
    ------
    GGUFError
        The only exception: no such file, not a regular file, not GGUF, malformed, parts missing.
    """
    path = Path(path)
    first = _open_part(path)
    count = _split_number(first, "split.count", 0)
    if count <= 1:
        return GGUFFile(path, [first], first.identity)
    parts = [first]
    stem = _check_first_part(first, count)
    for number in range(2, count + 1):
        part = _open_part(path.with_name(f"{stem}-{number:05d}-of-{count:05d}.gguf"))
        _check_part(part, number, count)
        parts.append(part)
    identity = join_identities(path, tuple(part.identity for part in parts))
    file = GGUFFile(path, parts, identity)
    declared = _split_number(first, "split.tensors.count", len(file.tensors))
    if declared != len(file.tensors):
        found = len(file.tensors)
        file.close()
        raise _error(path, f"split.tensors.count: expected {declared} tensors", str(found))
    return file


def _error(path: Path, expected: str, found: str) -> GGUFError:
    return GGUFError(f"{escape(str(path))}: {expected}, found {found}")


def _open_part(path: Path) -> _Part:
    # Without O_NONBLOCK opening a FIFO would wait for a writer.
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        fd = os.open(path, flags)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        if "\0" in str(path):  # the standard library's own words differ from release to release
            reason = "a null byte in its name"
        raise _error(path, "expected a readable file", str(reason).lower()) from None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise _error(path, "expected a regular file", kind_of(info.st_mode))
        if info.st_size < MIN_SIZE:
            raise _error(path, f"expected a GGUF file of {MIN_SIZE} bytes or more",
                         f"{info.st_size} bytes")  # fmt: skip
        try:
            mapping = mmap.mmap(fd, info.st_size, access=mmap.ACCESS_READ)
        except (OSError, ValueError, OverflowError) as error:
            raise _error(path, "expected a file that can be mapped", str(error)) from None
    finally:
        os.close(fd)
    try:
        header = parse(mapping)
    except GGUFError as error:
        raise GGUFError(f"{escape(str(path))}: {error}") from None
    digest = hashlib.sha256(memoryview(mapping)[: header.end]).hexdigest()
    spans = tuple((tensor.start, tensor.end) for tensor in header.tensors)
    stat_facts = (info.st_size, info.st_mtime_ns, info.st_dev, info.st_ino)
    identity = FileIdentity(path, *stat_facts, digest, spans=spans)
    return _Part(mapping, header, identity)


def _split_number(part: _Part, key: str, default: int) -> int:
    value = part.header.values.get(key, default)
    if type(value) is not int or value < 0:
        raise _error(part.identity.path, f"{key}: expected a count", ascii(value)[:60])
    return value


def _check_first_part(part: _Part, count: int) -> str:
    """Check that this is part 1 under its proper name; returns the name's stem."""
    path = part.identity.path
    if count > MAX_PARTS:
        raise _error(path, f"split.count: expected at most {MAX_PARTS}", str(count))
    match = _PART.fullmatch(path.name)
    if match is None or int(match[3]) != count:
        raise _error(path, f"expected a name that ends in -00001-of-{count:05d}.gguf, as "
                     f"split.count = {count} asks for", repr(path.name))  # fmt: skip
    if int(match[2]) != 1:
        raise _error(path, "expected the first part of a split model", f"part {match[2]}")
    _check_part(part, 1, count)
    return match[1]


def _check_part(part: _Part, number: int, count: int) -> None:
    for key, expected in (("split.no", number - 1), ("split.count", count)):
        found = part.header.values.get(key)
        if type(found) is not int or found != expected:
            raise _error(part.identity.path, f"{key}: expected {expected}", ascii(found)[:60])
