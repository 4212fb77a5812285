"""How CPU kernels are compiled: flags and cache folder, in this one place.

No fast-math anywhere: the order of every sum is part of the contract (see `engine.ops`).
"""

from __future__ import annotations

from typing import Any

import numba
from numba import config

from engine.ops.cpu.runtime.kernel_cache import cache_folder, seal

seal()
numba_config: Any = config  # its attributes come from the environment at import
FOLDER = cache_folder()
numba_config.CACHE_DIR = str(FOLDER.path or "")
KEEP = FOLDER.path is not None  # else every process compiles its kernels anew


def kernel(signature_or_function=None, **extra):
    """njit for code inside one thread: no GIL, NumPy's division rules, cached on disk."""
    return numba.njit(signature_or_function, nogil=True, cache=KEEP, error_model="numpy", **extra)


def inline_kernel(function):
    """njit inlined by LLVM into its callers (small per-element rules)."""
    return numba.njit(function, nogil=True, cache=KEEP, error_model="numpy", forceinline=True)


def default_threads() -> int:
    """Cores that this process may use; NUMBA_NUM_THREADS says otherwise where it is set."""
    return int(numba_config.NUMBA_NUM_THREADS)
