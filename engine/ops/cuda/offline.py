"""numba-cuda's front end without a device: kernels become IR on any machine.

The front end asks for the current device's compute capability in two places; `without_device`
answers for it while a kernel is compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba.cuda.codegen as codegen
import numba.cuda.dispatcher as dispatcher
from numba.cuda import types
from numba.cuda.compiler import _compile_pyfunc_with_fixup

from engine.ops.cuda.kernel import Kernel


@contextmanager
def without_device(capability: tuple[int, int]) -> Iterator[None]:
    """Let numba-cuda compile for a compute capability, whatever devices there are."""

    class Device:
        compute_capability = capability
        id = 0

    class Context:
        device = Device

    held = dispatcher.get_current_device, codegen.devices.get_context
    dispatcher.get_current_device = lambda: Device
    codegen.devices.get_context = lambda *_: Context
    try:
        yield
    finally:
        dispatcher.get_current_device, codegen.devices.get_context = held


def device_ir(kernel: Kernel, capability: tuple[int, int] = (9, 0)) -> tuple[str, str]:
    """LLVM IR that numba-cuda makes of a kernel, and the name of its entry point."""
    with without_device(capability):
        library: Any
        library, _ = _compile_pyfunc_with_fixup(
            kernel.function,
            types.void(*kernel.args),
            device=False,
            abi="numba",
            cc=capability,
            fastmath=False,
            launch_bounds=kernel.launch_bounds(),
        )
    texts = library.llvm_strs
    if len(texts) != 1:
        raise NotImplementedError(
            f"{kernel.name}: expected one module (every helper inlined), found {len(texts)}"
        )
    return texts[0], library._entry_name
