"""numba-cuda's front end without a device: kernels become IR on any machine.

The front end asks for the current device's compute capability in two places; `without_device`
answers for it while a kernel is compiled. IR is the same for every capability that we know, so one
serves them all, and the native simulation too; making it takes most of a kernel's compile time, so
it is stored.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numba.cuda.codegen as codegen
import numba.cuda.dispatcher as dispatcher
from numba.cuda import types
from numba.cuda.compiler import _compile_pyfunc_with_fixup

from engine.ops.cuda.build.kernel import Kernel
from engine.ops.cuda.device import store

CAPABILITY = (9, 0)  # the oldest that kernels are written for


@dataclass(frozen=True)
class DeviceIR:
    """LLVM IR of a kernel and its helpers, one text per module, and the name of the kernel."""

    texts: tuple[str, ...]
    entry: str


@contextmanager
def without_device(capability: tuple[int, int] = CAPABILITY) -> Iterator[None]:
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


_held: dict[Kernel, DeviceIR] = {}


def device_ir(kernel: Kernel) -> DeviceIR:
    """IR that numba-cuda makes of a kernel."""
    if kernel not in _held:
        name = f"{kernel.name}.{store.kernel_digest(kernel)}.ir"
        stored = store.get(name)
        if stored is None:
            made = _make(kernel)
            stored = zlib.compress(json.dumps([made.entry, *made.texts]).encode(), 1)
            store.put(name, stored)
        entry, *texts = json.loads(zlib.decompress(stored))
        _held[kernel] = DeviceIR(tuple(texts), entry)
    return _held[kernel]


def _make(kernel: Kernel) -> DeviceIR:
    with without_device():
        library, _ = _compile_pyfunc_with_fixup(
            kernel.function,
            types.void(*kernel.parameters),
            device=False,
            abi="numba",
            cc=CAPABILITY,
            fastmath=False,
            launch_bounds=kernel.launch_bounds(),
        )
    return DeviceIR(tuple(dict.fromkeys(library.llvm_strs)), library._entry_name)
