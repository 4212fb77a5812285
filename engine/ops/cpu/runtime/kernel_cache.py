"""Compiled kernels on disk: one private folder per state of the sources, checked when read.

numba's cache files are pickles. A damaged one would end the program, a planted one would run, a
stale one would compute what an older helper said; so the folder belongs to this user alone (see
`engine.files.private`), its name is a hash of every kernel source, and each file, the indexes too,
carries a checksum. Whatever does not fit is compiled again, and whatever cannot be written is not
kept: the cache saves time and is never needed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Any

from numba.core import caching

from engine.files.private import PrivateFolder, kernel_folder

_DIGEST_BYTES = 32
# The compiler, and the packages whose tables are baked into kernels as constants.
_PACKAGES = ("numba", "llvmlite", "numpy", "gguf")

unwritten: list[str] = []  # why compiled kernels could not be kept, one reason a process


def source_digest() -> str:
    """Hash of every kernel source, the compiler's version and the forced instruction set.

    numba's own key sees only the file of the function itself, so an edited helper in another
    module would be served stale.
    """
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parents[3]  # the package `engine`
    for folder in ("ops", "quant"):  # storage formats bring tables and block layouts
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    for name in _PACKAGES:
        digest.update(f"{name}={importlib.metadata.version(name)}".encode())
    digest.update(sys.version.encode())
    digest.update(os.environ.get("DS4_CPU_ISA", "").encode())  # see `simd.isa`
    return digest.hexdigest()[:20]


def cache_folder() -> PrivateFolder:
    """The folder of this state of the sources, with a notice where it is not the wanted one."""
    return kernel_folder(source_digest())


def is_cold(folder: Path) -> bool:
    """Whether nothing has been compiled into the folder yet."""
    return next(folder.rglob("*.nbc"), None) is None


def seal() -> None:
    """Make numba write a checksum before index and data of each function and verify both.

    Uses private methods of numba, whose minor version is pinned; `test_kernel_cache` damages
    files to see that it works.
    """
    kind: Any = caching.IndexDataCacheFile
    if getattr(kind, "_ds4_sealed", False):
        return
    plain_load, plain_save = kind.load, kind.save

    def save_data(self: Any, name: str, data: Any) -> None:
        _write(self, self._data_path(name), self._dump(data))

    def load_data(self: Any, name: str) -> Any:
        return caching.pickle.loads(_read(self._data_path(name)))

    def save_index(self: Any, overloads: Any) -> None:
        _write(self, self._index_path, self._dump((self._version, self._source_stamp, overloads)))

    def load_index(self: Any) -> Any:
        try:
            raw = _read(self._index_path)
        except FileNotFoundError:
            return {}
        version, stamp, overloads = caching.pickle.loads(raw)
        known = version == self._version and stamp == self._source_stamp
        return overloads if known else {}

    def load(self: Any, key: Any) -> Any:
        try:
            return plain_load(self, key)
        except Exception:
            # A damaged index can raise anything; without it everything is compiled again.
            _or_note(self.flush)
            return None

    kind._save_data, kind._load_data = save_data, load_data
    kind._save_index, kind._load_index = save_index, load_index
    kind.load = load
    kind.save = lambda self, key, data: _or_note(lambda: _save(plain_save, self, key, data))
    kind._ds4_sealed = True
    _keep_going(caching.Cache)


def _save(plain: Any, self: Any, key: Any, data: Any) -> None:
    try:
        plain(self, key, data)
    except OSError:
        raise
    except Exception:  # a damaged index, met when writing
        self.flush()
        plain(self, key, data)


def _keep_going(kind: Any) -> None:
    """A folder that vanished or was closed while the program runs ends no compilation."""
    plain = kind._save_overload
    kind._save_overload = lambda self, sig, data: _or_note(lambda: plain(self, sig, data))


def _or_note(write: Any) -> None:
    try:
        write()
    except OSError as error:
        if not unwritten:
            unwritten.append(str(error))


def _write(self: Any, path: str, raw: bytes) -> None:
    with self._open_for_write(path) as file:
        file.write(hashlib.sha256(raw).digest())
        file.write(raw)


def _read(path: str) -> bytes:
    raw = Path(path).read_bytes()
    if hashlib.sha256(raw[_DIGEST_BYTES:]).digest() != raw[:_DIGEST_BYTES]:
        raise OSError(f"{path}: checksum")  # numba takes this for a missing file
    return raw[_DIGEST_BYTES:]
