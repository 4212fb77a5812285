"""How CPU kernels are compiled: flags, cache folder, threading layer, in this one place.

No fast-math anywhere: the order of every sum is part of the contract (see `engine.ops`).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
import sys
from pathlib import Path

import platformdirs

_HERE = Path(__file__).resolve().parent


def _source_digest() -> str:
    """Hash of every kernel source and of the compiler's version.

    numba's own cache key sees only the file of the function itself, so an edited helper in
    another module would be served stale.
    """
    import importlib.metadata

    digest = hashlib.sha256()
    for path in sorted(_HERE.parent.rglob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    for name in ("numba", "llvmlite", "numpy"):
        digest.update(f"{name}={importlib.metadata.version(name)}".encode())
    digest.update(sys.version.encode())
    digest.update(os.environ.get("DS4_CPU_ISA", "").encode())  # see `simd.isa`
    return digest.hexdigest()[:20]


def cache_dir() -> Path:
    """Folder of compiled kernels: private to this user, one per state of the sources.

    numba's cache files are pickles, so a folder that others can write would run their code;
    such a folder is not used and a fresh one is made beside it.
    """
    base = os.environ.get("DS4_KERNEL_CACHE")
    root = Path(base) if base else Path(platformdirs.user_cache_dir("ds4bench")) / "kernels"
    path = root / _source_digest()
    for attempt in range(8):
        candidate = path if attempt == 0 else path.with_name(f"{path.name}-{attempt}")
        candidate.mkdir(parents=True, exist_ok=True, mode=0o700)
        info = candidate.stat()
        ours = not hasattr(os, "getuid") or info.st_uid == os.getuid()
        if ours and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return candidate
    raise OSError(f"{path}: expected a folder that only this user can write")


def _preload_tbb() -> None:
    """Load libtbb from the tbb wheel, whose folder the dynamic linker does not search.

    Afterwards numba's TBB layer finds the library by its soname. Without the wheel (Arm, other
    systems) numba falls back to OpenMP.
    """
    for base in (Path(sys.prefix) / "lib", Path(sys.base_prefix) / "lib"):
        path = base / "libtbb.so.12"
        if path.exists():
            try:
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            except OSError:
                continue
            return


_preload_tbb()
# Where TBB is missing, OpenMP workers must sleep between regions: spinning ones stall for
# milliseconds as soon as another process wants their core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numba  # noqa: E402
from numba import config as numba_config  # noqa: E402

numba_config.CACHE_DIR = str(cache_dir())
numba_config.THREADING_LAYER_PRIORITY = ["tbb", "omp", "workqueue"]

prange = numba.prange


def kernel(signature_or_function=None, **extra):
    """njit for code inside one thread: no GIL, NumPy's division rules, cached on disk."""
    return numba.njit(signature_or_function, nogil=True, cache=True, error_model="numpy", **extra)


def parallel_kernel(signature_or_function=None, **extra):
    """njit whose `prange` loops run on the worker threads; reductions in prange are forbidden."""
    return numba.njit(
        signature_or_function, nogil=True, cache=True, parallel=True, error_model="numpy", **extra
    )


def inline_kernel(function):
    """njit inlined by LLVM into its callers (small per-element rules)."""
    return numba.njit(function, nogil=True, cache=True, error_model="numpy", forceinline=True)


def set_threads(n: int | None) -> int:
    """Use n worker threads (all that this process may run on when None); returns the number."""
    limit = numba.config.NUMBA_NUM_THREADS
    n = limit if n is None else min(n, limit)
    numba.set_num_threads(n)
    return n
