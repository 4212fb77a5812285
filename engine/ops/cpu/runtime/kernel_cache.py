"""The folder of compiled kernels: private, one per state of the sources, and checked when read.

numba's cache files are pickles. A damaged one would end the program, a planted one would run, a
stale one would compute what an older helper said; so the folder belongs to this user alone, its
name is a hash of every kernel source, and each file carries a checksum. Whatever does not fit is
compiled again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

import platformdirs
from numba.core import caching

from engine.errors import BackendError

_DIGEST_BYTES = 32


def source_digest() -> str:
    """Hash of every kernel source, the compiler's version and the forced instruction set.

    numba's own key sees only the file of the function itself, so an edited helper in another
    module would be served stale.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).resolve().parents[2].rglob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    for name in ("numba", "llvmlite", "numpy"):
        digest.update(f"{name}={importlib.metadata.version(name)}".encode())
    digest.update(sys.version.encode())
    digest.update(os.environ.get("DS4_CPU_ISA", "").encode())  # see `simd.isa`
    return digest.hexdigest()[:20]


def cache_dir() -> Path:
    """The folder, made if missing; one that others could write is left alone.

    Raises
    ------
    BackendError
        If no private folder can be made or written (DS4_KERNEL_CACHE names another place).
    """
    base = os.environ.get("DS4_KERNEL_CACHE")
    root = Path(base) if base else Path(platformdirs.user_cache_dir("ds4bench")) / "kernels"
    path = root / source_digest()
    for attempt in range(8):
        candidate = path if attempt == 0 else path.with_name(f"{path.name}-{attempt}")
        try:
            candidate.mkdir(parents=True, exist_ok=True, mode=0o700)
            # numba keeps nothing in a folder in which this does not work.
            with tempfile.TemporaryFile(dir=candidate):
                info = candidate.stat()
        except OSError as error:
            raise BackendError(
                f"DS4_KERNEL_CACHE: expected a folder for compiled kernels that can be written, "
                f"found {error.strerror}: {str(candidate)!r} (the variable may name another place)"
            ) from None
        ours = not hasattr(os, "getuid") or info.st_uid == os.getuid()
        if ours and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return candidate
    raise BackendError(
        f"DS4_KERNEL_CACHE: expected a folder that only this user can write, found {str(path)!r}"
    )


def is_cold(folder: str) -> bool:
    """Whether nothing has been compiled into the folder yet."""
    return next(Path(folder).rglob("*.nbc"), None) is None


def seal() -> None:
    """Make numba write a checksum before each compiled function and verify it when reading.

    Uses private methods of numba, whose minor version is pinned; `test_kernel_cache` damages
    files to see that it works.
    """
    kind: Any = caching.IndexDataCacheFile
    if getattr(kind, "_ds4_sealed", False):
        return
    plain_load = kind.load

    def save_data(self: Any, name: str, data: Any) -> None:
        raw = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(hashlib.sha256(raw).digest())
            file.write(raw)

    def load_data(self: Any, name: str) -> Any:
        raw = Path(self._data_path(name)).read_bytes()
        if hashlib.sha256(raw[_DIGEST_BYTES:]).digest() != raw[:_DIGEST_BYTES]:
            raise OSError(f"{name}: checksum")  # numba takes this for a missing file
        return caching.pickle.loads(raw[_DIGEST_BYTES:])

    def load(self: Any, key: Any) -> Any:
        try:
            return plain_load(self, key)
        except Exception:
            # A damaged index can raise anything; without it everything is compiled again.
            self.flush()
            return None

    kind._save_data, kind._load_data, kind.load = save_data, load_data, load
    kind._ds4_sealed = True
