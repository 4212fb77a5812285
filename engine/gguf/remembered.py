"""What this user's cache remembers of large model files, so that nothing is read twice for it.

One small JSON file per model path. An entry is believed while the file at that path has the size,
the times of change, the inode and the header that it had; then the file was not written since.
The cache is a help and never a truth of its own: a folder that cannot be read or written, and a
damaged entry, are as good as none. It does not know what the facts mean that it keeps.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

REMEMBER_FROM = 256 << 20  # bytes; smaller files are read again sooner than the cache is worth
_MAX_ENTRY = 1 << 16


def folder() -> Path:
    """Where entries lie; DS4_FILE_CACHE names another place than the user's cache."""
    base = os.environ.get("DS4_FILE_CACHE")
    if base:
        return Path(base)
    import platformdirs

    return Path(platformdirs.user_cache_dir("ds4bench")) / "files"


def stamp(path: Path) -> list[int]:
    """Size, times of change and inode of a file: equal stamps mean that nobody wrote it.

    Raises
    ------
    OSError
    """
    info = os.stat(path)
    return [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]


def recall(path: Path, header_sha256: str) -> dict[str, str]:
    """Facts that an earlier process found in this very file; {} where none are known."""
    try:
        now = stamp(path)
        if now[0] < REMEMBER_FROM:
            return {}
        with open(_entry(path), "rb") as file:
            found = json.loads(file.read(_MAX_ENTRY))
        known = found["stamp"] == now and found["header_sha256"] == header_sha256
        facts = found["facts"] if known else {}
        return {str(k): v for k, v in facts.items() if isinstance(v, str)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def remember(path: Path, header_sha256: str, **facts: str) -> None:
    """Keep facts of a file beside those that are known of it."""
    temporary = None
    try:
        now = stamp(path)
        if now[0] < REMEMBER_FROM:
            return
        kept = {**recall(path, header_sha256), **facts}
        entry = _entry(path)
        entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = json.dumps(
            {"path": str(path), "stamp": now, "header_sha256": header_sha256, "facts": kept}
        )
        # Another process may read it meanwhile: it sees the old entry or the new one.
        handle, temporary = tempfile.mkstemp(dir=entry.parent, prefix=".", suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        os.replace(temporary, entry)
    except (OSError, ValueError):
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _entry(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
    return folder() / f"{name}.json"
