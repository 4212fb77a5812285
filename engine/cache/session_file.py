"""A snapshot in a file: the block, then a trailer that says what it is, checksummed.

    snapshot   (see `engine.cache.snapshot`)
    outputs    only in format 3 (see `engine.cache.session_outputs`)
    trailer    UTF-8 JSON: format, title, created, id, kv, model, header; outputs in format 3
    u64        bytes of the snapshot
    u32        bytes of the trailer
    32 bytes   SHA-256 of everything before
    8 bytes    'DS4SESS1'

Session identity (title, creation time, id) is written once and kept when the session is saved
again. `model` is the sampled identity of the model file and `header` its header's hash. Files of
format 1 name the header's hash alone: such a session is read, and called "header only", because
nothing in it tells two models with equal headers apart. Format 3 is written where a drafter needs
what layers put out for the last tokens, and format 2 otherwise.

A file is replaced under a lock of its folder, and only while it is the one that the session was
read from: of two programs that continue one session at a time, neither loses its turn.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import stat
import struct
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path

from engine.cache import session_outputs
from engine.cache.snapshot import HEADER_WORDS, Snapshot, header
from engine.errors import SnapshotError
from engine.files.regular import kind_of
from engine.gguf.identity import FileIdentity

TAIL = b"DS4SESS1"
FORMAT = 2
WITH_OUTPUTS = 3
HEADER_ONLY = 1  # the format that knows the model by its header's hash
MAX_TITLE = 4096  # characters, so that every trailer stays below _MAX_TRAILER
_SIZES = struct.Struct("<QI")
_MAX_TRAILER = 1 << 16
_FIXED = _SIZES.size + 32 + len(TAIL)
_LOCK_WAIT_S = 60.0
# What flock answers on file systems that have no locks of folders, NFS among them.
_NO_LOCKS = (errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class SessionIdentity:
    """What a session keeps over its life.

    Parameters
    ----------
    title : str
    created : float
        Seconds since the epoch, when it was first saved.
    id : str
        Random, 32 hex digits.
    """

    title: str
    created: float
    id: str


@dataclass(frozen=True, slots=True)
class SavedSession:
    """A session file as read.

    Attributes
    ----------
    snapshot : Snapshot
    identity : SessionIdentity
    digest : bytes
        The file's checksum: what `write_session` must find in order to replace the file.
    header_only : bool
        The file knows its model by the header alone.
    """

    snapshot: Snapshot
    identity: SessionIdentity
    digest: bytes
    header_only: bool


@dataclass(frozen=True, slots=True)
class _Trailer:
    """The end of a session file."""

    raw: bytes  # with the two sizes behind it, as it is hashed
    n_snapshot: int
    digest: bytes
    format: int
    identity: SessionIdentity
    kv: str
    model: str
    header: str
    outputs: session_outputs.Described | None


def new_identity(title: str) -> SessionIdentity:
    """Identity of a session that is saved for the first time.

    Raises
    ------
    SnapshotError
        If the title is too long to be kept.
    """
    return retitled(SessionIdentity("", time.time(), uuid.uuid4().hex), title)


def retitled(identity: SessionIdentity, title: str) -> SessionIdentity:
    """The same session under another title.

    Raises
    ------
    SnapshotError
        If the title is too long to be kept.
    """
    if len(title) > MAX_TITLE:
        raise SnapshotError(f"title: expected at most {MAX_TITLE} characters, found {len(title)}")
    return SessionIdentity(title, identity.created, identity.id)


def write_session(
    path: Path,
    snapshot: Snapshot,
    identity: SessionIdentity,
    model: FileIdentity,
    *,
    seen: bytes | None = None,
    new: bool = False,
) -> bytes:
    """Write beside `path`, flush to disk, then rename: an older file survives any failure.

    Parameters
    ----------
    path : Path
    snapshot : Snapshot
    identity : SessionIdentity
    model : FileIdentity
        Of the trunk file.
    seen : bytes, optional
        Checksum of the file as the caller last read or wrote it.
    new : bool
        The caller knows of no file there.

    Returns
    -------
    bytes
        The new file's checksum.

    Raises
    ------
    SnapshotError
        If the file cannot be written, or another program has written it meanwhile: then that
        file stays, and this session is in one beside it, which the message names.
    """
    outputs = session_outputs.describe(snapshot.outputs)
    fields = {
        "format": FORMAT if outputs is None else WITH_OUTPUTS,
        **asdict(identity),
        "kv": snapshot.kv,
        "model": model.sampled_sha256(),
        "header": model.header_sha256,
        **({} if outputs is None else {"outputs": outputs.fields()}),
    }
    trailer = json.dumps(fields).encode()
    kept = session_outputs.parts(snapshot.outputs, outputs)
    sizes = _SIZES.pack(snapshot.n_bytes, len(trailer))
    body: list[bytes | memoryview] = [snapshot.data, *kept, trailer, sizes]
    try:
        with _locked_folder(path) as folder:
            found = _digest_of(path)
            changed = found is not None and (new if seen is None else found != seen)
            target = _free_name(path) if changed else path
            digest = _replace(target, body)
            os.fsync(folder)
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be written: {error.strerror}") from error
    if changed:
        raise SnapshotError(
            f"{path}: expected the file that this session "
            f"{'was to make' if seen is None else 'last saw'}, found one that another program has "
            f"written since; it stays, and this session is saved as {target.name}"
        )
    return digest


def _replace(path: Path, body: Sequence[bytes | memoryview]) -> bytes:
    """Put a new file in the place of `path`; returns its checksum."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # A leftover of a process that had our number and was killed.
    temporary.unlink(missing_ok=True)
    digest = hashlib.sha256()
    try:
        with open(temporary, "xb") as file:
            for part in body:
                digest.update(part)
                file.write(part)
            file.write(digest.digest() + TAIL)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return digest.digest()


@contextlib.contextmanager
def _locked_folder(path: Path) -> Iterator[int]:
    """The folder of `path`, open, with no other writer of sessions in it.

    A lock of the session file itself would be a lock of the file that the rename replaces.
    """
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    break  # the checksum is compared all the same
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
            if time.monotonic() > deadline:
                raise SnapshotError(
                    f"{path}: expected to be the only writer of sessions in its folder within "
                    f"{_LOCK_WAIT_S:.0f} s, found another that goes on"
                )
            time.sleep(0.02)
        yield folder
    finally:
        os.close(folder)


def _digest_of(path: Path) -> bytes | None:
    """Checksum at the end of the file at `path`; None where there is none, b'' of other files."""
    try:
        with _open(path) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(size - 32 - len(TAIL), 0))
            end = file.read(32 + len(TAIL))
    except FileNotFoundError:
        return None
    return end[:32] if end[32:] == TAIL else b""


def _free_name(path: Path) -> Path:
    """The first name beside `path` that is not taken: NAME.2, NAME.3, ..."""
    number = 2
    while (free := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return free


def _open(path: Path) -> FileIO:
    """A regular file, open; others would block, or end never."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(mode := os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, f"not a regular file but {kind_of(mode)}")
    return FileIO(handle, "rb")


def read_session(path: Path, model: FileIdentity) -> SavedSession:
    """Read and verify a session file of a model.

    The end is read first: a file of another kind, format or model is refused by its last few
    hundred bytes, whatever its size.

    Raises
    ------
    SnapshotError
        If the file cannot be read, is damaged, or belongs to another model.
    """
    try:
        with _open(path) as file:
            trailer = _read_trailer(path, file)
            _check_model(path, trailer, model)
            data = _read_snapshot(path, file, trailer.n_snapshot)
            outputs = session_outputs.read(file, trailer.outputs)
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(data)
    digest.update(outputs)
    digest.update(trailer.raw)
    if digest.digest() != trailer.digest:
        raise SnapshotError(f"{path}: expected an intact file, found another checksum")
    kept = session_outputs.arrays(outputs, trailer.outputs)
    snapshot = Snapshot(memoryview(data).toreadonly(), trailer.kv, kept)
    header_only = trailer.format == HEADER_ONLY
    return SavedSession(snapshot, trailer.identity, trailer.digest, header_only)


def _read_trailer(path: Path, file: FileIO) -> _Trailer:
    size = os.fstat(file.fileno()).st_size
    file.seek(max(size - _FIXED, 0))
    fixed = file.read(_FIXED)
    if len(fixed) < _FIXED or fixed[-len(TAIL) :] != TAIL:
        raise SnapshotError(f"{path}: expected a session file, found {size} other bytes")
    n_snapshot, n_trailer = _SIZES.unpack_from(fixed)
    n_outputs = size - _FIXED - n_trailer - n_snapshot
    wrong = SnapshotError(
        f"{path}: expected sizes that add up to {size - _FIXED}, found {n_snapshot}+{n_trailer}"
    )
    if n_trailer > _MAX_TRAILER or n_outputs < 0:
        raise wrong
    file.seek(n_snapshot + n_outputs)
    raw = file.read(n_trailer)
    try:
        fields = json.loads(raw)
        version = fields["format"]
        known = type(version) is int and version in (HEADER_ONLY, FORMAT, WITH_OUTPUTS)
        outputs = None
        if known:
            identity = SessionIdentity(
                str(fields["title"]), float(fields["created"]), str(fields["id"])
            )
            if not math.isfinite(identity.created):
                raise ValueError(f"created {identity.created}")
            kv, model = str(fields["kv"]), str(fields["model"])
            header_hash = model if version == HEADER_ONLY else str(fields["header"])
            if version == WITH_OUTPUTS:
                outputs = session_outputs.described(fields["outputs"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SnapshotError(f"{path}: expected a readable trailer, found {error}") from error
    if not known:
        raise SnapshotError(
            f"{path}: expected a session of format {HEADER_ONLY} to {WITH_OUTPUTS}, found format "
            f"{ascii(version)[:20]}, which another release wrote"
        )
    if n_outputs != (0 if outputs is None else outputs.n_bytes):
        raise wrong
    digest = fixed[_SIZES.size : _SIZES.size + 32]
    raw += fixed[: _SIZES.size]
    return _Trailer(raw, n_snapshot, digest, version, identity, kv, model, header_hash, outputs)


def _check_model(path: Path, trailer: _Trailer, model: FileIdentity) -> None:
    """Refuse a session of another model, naming both."""
    header_only = trailer.format == HEADER_ONLY
    ours = model.header_sha256 if header_only else model.sampled_sha256()
    if trailer.model == ours:
        return
    kind = "header only " if header_only else ""
    same = trailer.header == model.header_sha256
    raise SnapshotError(
        f"{path}: expected a session of this model ({kind}{ours[:12]}), found one of "
        f"{kind}{ascii(trailer.model)[1:13]}"
        + (", which has the same header and other weights" if same else "")
    )


def _read_snapshot(path: Path, file: FileIO, size: int) -> bytearray:
    """The block, whose first words are looked at before memory is taken for the rest."""
    file.seek(0)
    first = file.read(min(4 * HEADER_WORDS, size))
    header(memoryview(first))
    try:
        data = bytearray(size)
    except MemoryError:
        raise SnapshotError(
            f"{path}: expected a snapshot that memory holds, found one of {size} bytes"
        ) from None
    file.seek(0)
    view = memoryview(data)
    done = 0
    while done < size and (n := file.readinto(view[done:])):
        done += n
    if done < size:
        raise SnapshotError(f"{path}: expected {size} bytes of snapshot, found {done}")
    return data
