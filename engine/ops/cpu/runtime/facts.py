"""What this kernel set is running on, for records."""

from __future__ import annotations

import llvmlite
import llvmlite.binding
import numba

from engine.ops.cpu.runtime import jit
from engine.ops.cpu.runtime.kernel_cache import is_cold, unwritten
from engine.ops.cpu.simd.ir import isa


def facts() -> dict[str, str | int]:
    """Plain values: instruction set of the dot products, compiler, what shares the work."""
    return {
        "isa": isa(),
        "cpu_name": llvmlite.binding.get_host_cpu_name(),
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "threading_layer": "team",  # before December 2026: 'tbb' or another of numba's
        "kernel_cache": jit.FOLDER.path.name if jit.FOLDER.path and jit.FOLDER.lasts else "",
    }


def notices() -> list[str]:
    """What a user should know before the first kernel runs."""
    folder = jit.FOLDER
    if folder.notice:
        return [folder.notice]
    if unwritten:
        return [f"kernels: compiled, but not kept for later runs: {unwritten[0]}"]
    if folder.path is not None and is_cold(folder.path):
        return [
            "kernels: compiled as they are first used, about a minute in all; later runs are quick"
        ]
    return []
