"""An append-only log of records that survives kill -9, power loss and a full disk.

One line per record, its checksum in eight hex digits over the JSON bytes: ``crc32 SP json LF``, or
plain JSON Lines, which has the checksum as the first field of the object and in no other way
differs (the checksum is over the object without it). A file keeps the form of its first line.
The first record names schema and version. An append has happened when `append` returns: one
write, then fsync. CSV and Parquet are views of it (`engine.tooling.results.publish`).
"""

from __future__ import annotations

import io
import json
import os
import stat
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import StoreError
from engine.files.regular import kind_of, open_regular
from engine.tooling.results import locks
from engine.tooling.results.publish import free_bytes, sync_folder

Record = dict[str, Any]
MOST_BYTES = 4 << 30  # of a journal; a larger file is none of ours


def encode(record: Record) -> bytes:
    """One line of the journal. NaN and infinity are refused: strict JSON has neither.

    Raises
    ------
    ValueError
        If a number is not finite.
    """
    body = json.dumps(record, allow_nan=False, separators=(",", ":")).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(body), body)


# A plain line begins with its checksum: `{"crc32":"01234567",`, then the rest of the object.
_CRC, _CRC_END = b'{"crc32":"', b'",'
_BODY = len(_CRC) + 8 + len(_CRC_END)


def encode_plain(record: Record) -> bytes:
    """One line of a journal of plain JSON Lines; see `encode`.

    Raises
    ------
    ValueError
        If a number is not finite, or the record is empty.
    """
    if not record:
        raise ValueError("record: expected at least one field, found none")
    body = encode(record)[9:]
    return b"%s%08x%s%s" % (_CRC, zlib.crc32(body[:-1]), _CRC_END, body[1:])


def decode(line: bytes) -> Record | None:
    """The record of one line of either form without its LF, or None if it is damaged."""
    if line.startswith(_CRC) and line[_BODY - len(_CRC_END) : _BODY] == _CRC_END:
        digits, body = line[len(_CRC) : len(_CRC) + 8], b"{" + line[_BODY:]
    elif len(line) >= 11 and line[8:9] == b" ":
        digits, body = line[:8], line[9:]
    else:
        return None
    try:
        if int(digits, 16) != zlib.crc32(body):
            return None
        record = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def scan(data: bytes) -> tuple[list[Record], int]:
    """Records of the longest good prefix of a journal, and that prefix's length in bytes."""
    records: list[Record] = []
    good = 0
    while (end := data.find(b"\n", good)) >= 0:
        record = decode(data[good:end])
        if record is None:
            break
        records.append(record)
        good = end + 1
    return records, good


def is_journal(head: bytes) -> bool:
    """Whether a file that starts with `head` looks like a journal and not like CSV or Parquet."""
    if head.startswith(_CRC[: len(head)]):
        return len(head) > 9
    return len(head) > 9 and head[8:10] == b" {" and all(c in b"0123456789abcdef" for c in head[:8])


@dataclass(frozen=True, slots=True)
class Contents:
    """What a reader finds: the header record, the records behind it, and what was unreadable."""

    header: Record
    records: list[Record]
    dropped_bytes: int


def read_journal(path: Path, schema: str, version: int) -> Contents:
    """Read a journal without locking or changing it, also while it is being written.

    Raises
    ------
    StoreError
        If it cannot be read, is empty, or is of another schema or a newer version.
    """
    records: list[Record] = []
    header, dropped = walk_journal(path, schema, version, lambda record, n: records.append(record))
    return Contents(header, records, dropped)


def walk_journal(
    path: Path, schema: str, version: int, take: Callable[[Record, int], None]
) -> tuple[Record, int]:
    """Hand over the records of a journal one by one; as `read_journal`, but none is kept.

    Parameters
    ----------
    path : Path
    schema, version : str, int
    take : callable
        Gets each record behind the header and its number, from 2.

    Returns
    -------
    header : dict
    dropped : int
        Bytes behind the last good record.

    Raises
    ------
    StoreError
        As for `read_journal`; also if the file is larger than any journal.
    """
    header: Record | None = None
    good, n = 0, 0
    with open_regular(path, error=StoreError) as raw:
        size = os.fstat(raw.fileno()).st_size
        if size > MOST_BYTES:
            raise StoreError(f"{path}: expected at most {MOST_BYTES} bytes, found {size}")
        try:
            lines = io.BufferedReader(raw, 1 << 20)
            # What is written meanwhile is the next reader's; files of /proc say 0 and hold more.
            while good < (size or MOST_BYTES) and (line := lines.readline(MOST_BYTES)):
                record = decode(line[:-1]) if line.endswith(b"\n") else None
                if record is None:
                    size = max(size, good + len(line))
                    break
                good, n = good + len(line), n + 1
                if header is None:
                    _check_header(path, record, schema, version)
                    header = record
                else:
                    take(record, n)
        except OSError as cause:
            raise StoreError(f"{path}: expected a readable file, found {cause.strerror}") from cause
    if header is None:
        raise StoreError(f"{path}: expected a journal, found no good record in {size} bytes")
    return header, max(size, good) - good


@dataclass(slots=True)
class Journal:
    """An open journal, locked for this process.

    Use `Journal.open`; close it, or use it as a context manager.

    Attributes
    ----------
    path : Path
    header : dict
        First record, as found or as just written.
    records : list of dict
        Every record behind the header, those appended since included.
    moved_aside : Path or None
        Where a damaged tail was put.
    """

    path: Path
    header: Record
    records: list[Record] = field(default_factory=list)
    moved_aside: Path | None = None
    _fd: int = -1
    _size: int = 0
    _encode: Callable[[Record], bytes] = encode

    @classmethod
    def open(
        cls,
        path: Path,
        schema: str,
        version: int,
        header: Record | None = None,
        *,
        allow_network_fs: bool = False,
        plain: bool = False,
        private: bool = False,
    ) -> Journal:
        """Create a journal or recover one: good prefix kept, the rest moved to ``.bad-<time>``.

        Parameters
        ----------
        path : Path
        schema, version : str, int
            What this program writes; an existing file must carry the same schema and a version
            that is not newer.
        header : dict or None
            Further fields of the first record of a new journal.
        allow_network_fs : bool
            Go on where locks are not reliable.
        plain : bool
            Make a new journal one of plain JSON Lines.
        private : bool
            Make a new journal one that only its owner may read.

        Raises
        ------
        StoreError
            If another process writes it, it is not a regular file, or the disk refuses.
        """
        if not allow_network_fs:
            locks.refuse_network_file_system(path.parent if not path.exists() else path)
        # O_NONBLOCK: opening a FIFO must not wait for a peer.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            fd = os.open(path, flags, 0o600 if private else 0o666)
        except OSError as error:
            raise StoreError(
                f"{path}: expected a journal that can be written, found {error.strerror}"
            ) from error
        try:
            if not stat.S_ISREG(mode := os.fstat(fd).st_mode):
                raise StoreError(f"{path}: expected a regular file, found {kind_of(mode)}")
            locks.lock(fd, path)
        except BaseException:
            os.close(fd)
            raise
        journal = cls(path, {}, _fd=fd, _encode=encode_plain if plain else encode)
        try:
            journal._recover(schema, version, header or {})
        except OSError as error:
            journal.close()
            raise StoreError(f"{path}: expected to recover it, found {error}") from error
        except BaseException:
            journal.close()
            raise
        return journal

    def append(self, record: Record) -> None:
        """Make one record durable; when this returns, no crash can take it away.

        Raises
        ------
        StoreError
            If it could not be written in whole. The file then ends where it ended before.
        """
        if self._fd < 0:
            raise StoreError(f"{self.path}: expected an open journal, found a closed one")
        self._write(self._encode(record))
        self.records.append(record)

    def close(self) -> None:
        """Drop the lock; safe to call twice."""
        if self._fd >= 0:
            locks.unlock(self._fd, self.path)
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        try:
            written = os.write(self._fd, line)
            if written != len(line):
                raise OSError(f"{written} of {len(line)} bytes written")
            os.fsync(self._fd)
            if os.fstat(self._fd).st_nlink == 0:
                raise OSError("the file was deleted while it was in use")
        except OSError as error:
            self._cut_back()
            raise StoreError(
                f"{self.path}: expected to append {len(line)} bytes, found "
                f"{error.strerror or error} ({free_bytes(self.path.parent)} bytes free; "
                "earlier rows are safe, --resume goes on)"
            ) from error
        self._size += len(line)

    def _cut_back(self) -> None:
        # Leave no torn line: the next reader must not have to guess.
        try:
            os.ftruncate(self._fd, self._size)
            os.fsync(self._fd)
        except OSError:
            pass  # recovery at the next open cuts the tail by its checksum

    def _recover(self, schema: str, version: int, header: Record) -> None:
        with open(self._fd, "rb", closefd=False) as file:
            file.seek(0)
            data = file.read()
        records, good = scan(data)
        if records:
            _check_header(self.path, records[0], schema, version)
        elif data and not _is_torn_header(data):
            # Not one good line: somebody else's file, which we must not cut.
            raise StoreError(f"{self.path}: expected a journal, found something else")
        if good < len(data):
            self.moved_aside = _save_tail(self.path, data[good:])
            os.ftruncate(self._fd, good)
            os.fsync(self._fd)
        self._size = good
        if records:
            self.header, self.records = records[0], records[1:]
            self._encode = encode_plain if data.startswith(_CRC) else encode
            return
        self.header = {"schema": schema, "version": version, **header}
        self._write(self._encode(self.header))
        sync_folder(Path(os.path.realpath(self.path)).parent)


def _check_header(path: Path, header: Record, schema: str, version: int) -> None:
    if header.get("schema") != schema:
        raise StoreError(f"{path}: expected schema {schema!r}, found {header.get('schema')!r}")
    found = header.get("version")
    if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= version:
        raise StoreError(f"{path}: expected version 1 to {version}, found {found!r}")


def _is_torn_header(data: bytes) -> bool:
    """A first line that a crash cut short: no LF yet, and nothing but our own beginning."""
    return b"\n" not in data and (is_journal(data[:10]) or len(data) < 10 or not any(data))


def _save_tail(path: Path, tail: bytes) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for n in range(1000):
        aside = path.with_name(f"{path.name}.bad-{stamp}" + (f"-{n}" if n else ""))
        try:
            # Like the journal, it may hold what a model replied.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(os.open(aside, flags, 0o600), "wb") as file:
                file.write(tail)
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            continue
        sync_folder(aside.parent)
        return aside
    raise OSError(f"no free name beside {path}")
