"""How CPU kernels are compiled: flags, cache folder, threading layer, in this one place.

No fast-math anywhere: the order of every sum is part of the contract (see `engine.ops`).
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any


def _preload_tbb() -> bool:
    """Load libtbb from the tbb wheel, whose folder the dynamic linker does not search.

    Afterwards numba's TBB layer finds the library by its soname. Without the wheel (Arm, other
    systems) numba falls back to OpenMP. Returns whether the library is there.
    """
    for base in (Path(sys.prefix) / "lib", Path(sys.base_prefix) / "lib"):
        path = base / "libtbb.so.12"
        if path.exists():
            try:
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            except OSError:
                continue
            return True
    return False


if not _preload_tbb():
    # OpenMP workers must sleep between regions: spinning ones stall for milliseconds as soon as
    # another process wants their core. Only where they are used, since the setting would also
    # slow other OpenMP libraries of this process (llama.cpp beside us).
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numba  # noqa: E402
from numba import config  # noqa: E402

from engine.ops.cpu.runtime.kernel_cache import cache_folder, seal  # noqa: E402

seal()
numba_config: Any = config  # its attributes come from the environment at import
FOLDER = cache_folder()
numba_config.CACHE_DIR = str(FOLDER.path or "")
KEEP = FOLDER.path is not None  # else every process compiles its kernels anew
numba_config.THREADING_LAYER_PRIORITY = ["tbb", "omp", "workqueue"]

prange = numba.prange


def kernel(signature_or_function=None, **extra):
    """njit for code inside one thread: no GIL, NumPy's division rules, cached on disk."""
    return numba.njit(signature_or_function, nogil=True, cache=KEEP, error_model="numpy", **extra)


def parallel_kernel(signature_or_function=None, **extra):
    """njit whose `prange` loops run on the worker threads; reductions in prange are forbidden."""
    return numba.njit(
        signature_or_function, nogil=True, cache=KEEP, parallel=True, error_model="numpy", **extra
    )


def inline_kernel(function):
    """njit inlined by LLVM into its callers (small per-element rules)."""
    return numba.njit(function, nogil=True, cache=KEEP, error_model="numpy", forceinline=True)


def set_threads(n: int | None) -> int:
    """Use n worker threads (all that this process may run on when None); returns the number."""
    limit = numba_config.NUMBA_NUM_THREADS
    n = limit if n is None else min(n, limit)
    numba.set_num_threads(n)
    return n
