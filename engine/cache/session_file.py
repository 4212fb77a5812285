"""A snapshot in a file: the block, then a trailer that says what it is, checksummed.

    snapshot   (see `engine.cache.snapshot`)
    trailer    UTF-8 JSON: format, title, created, id, kv, model
    u64        bytes of the snapshot
    u32        bytes of the trailer
    32 bytes   SHA-256 of everything before
    8 bytes    'DS4SESS1'

The identity (title, creation time, id) is written once and kept when the session is saved again.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.cache.snapshot import Snapshot, header
from engine.errors import SnapshotError

TAIL = b"DS4SESS1"
_SIZES = struct.Struct("<QI")
_MAX_TRAILER = 1 << 16


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


def new_identity(title: str) -> SessionIdentity:
    return SessionIdentity(title, time.time(), uuid.uuid4().hex)


def write_session(path: Path, snapshot: Snapshot, identity: SessionIdentity, model: str) -> None:
    """Write beside `path`, flush to disk, then rename: an older file survives any failure.

    Parameters
    ----------
    path : Path
    snapshot : Snapshot
    identity : SessionIdentity
    model : str
        Header hash of the model file.
    """
    trailer = json.dumps(
        {"format": 1, **asdict(identity), "kv": snapshot.kv, "model": model}, ensure_ascii=False
    ).encode()
    digest = hashlib.sha256()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "xb") as file:
            for part in (snapshot.data, trailer, _SIZES.pack(snapshot.n_bytes, len(trailer))):
                digest.update(part)
                file.write(part)
            file.write(digest.digest() + TAIL)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SnapshotError(f"{path}: cannot be written: {error.strerror}") from error


def read_session(path: Path, model: str) -> tuple[Snapshot, SessionIdentity]:
    """Read and verify a session file of the model with this header hash.

    Raises
    ------
    SnapshotError
        If the file cannot be read, is damaged, or belongs to another model.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read: {error.strerror}") from error
    fixed = _SIZES.size + 32 + len(TAIL)
    if len(data) < fixed or data[-len(TAIL) :] != TAIL:
        raise SnapshotError(f"{path}: expected a session file, found {len(data)} other bytes")
    body = len(data) - 32 - len(TAIL)
    if hashlib.sha256(data[:body]).digest() != data[body : body + 32]:
        raise SnapshotError(f"{path}: expected an intact file, found another checksum")
    n_snapshot, n_trailer = _SIZES.unpack_from(data, body - _SIZES.size)
    if n_trailer > _MAX_TRAILER or n_snapshot + n_trailer + _SIZES.size != body:
        raise SnapshotError(f"{path}: expected sizes that add up, found {n_snapshot}+{n_trailer}")
    try:
        trailer = json.loads(data[n_snapshot : n_snapshot + n_trailer])
        identity = SessionIdentity(
            str(trailer["title"]), float(trailer["created"]), str(trailer["id"])
        )
        kv, owner = str(trailer["kv"]), str(trailer["model"])
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotError(f"{path}: expected a readable trailer, found {error}") from error
    if owner != model:
        raise SnapshotError(
            f"{path}: expected a session of this model ({model[:12]}), found one of {owner[:12]}"
        )
    snapshot = Snapshot(memoryview(data)[:n_snapshot], kv)
    header(snapshot.data)
    return snapshot, identity
