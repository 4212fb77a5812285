"""Recorded passes: the launches of one pass with their arguments packed, replayed at low cost."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from numba.cuda import types

from engine.errors import BackendError
from engine.ops.cuda.build.kernel import Kernel
from engine.ops.cuda.device.api import Driver

Entry = tuple[Any, ...]

# Every argument has a slot of 8 bytes; the driver reads as many as the parameter has.
_SLOT = {
    types.uint32: "I4x",
    types.int32: "i4x",
    types.float32: "f4x",
    types.uint64: "Q",
    types.int64: "q",
}


def packer(kernel: Kernel) -> struct.Struct:
    """How a kernel's arguments lie in its block: one slot of 8 bytes each."""
    slots = ("Q" if isinstance(kind, types.CPointer) else _SLOT[kind] for kind in kernel.args)
    return struct.Struct("<" + "".join(slots))


class LoadedKernel(Protocol):
    """A kernel in the device's memory: the driver's handle, and how its arguments are packed."""

    @property
    def function(self) -> Any: ...
    @property
    def pack(self) -> struct.Struct: ...


class PassDevice(Protocol):
    """What a recorded pass asks of the device that it runs on."""

    driver: Driver
    stream: Any

    def attach(self) -> None: ...
    def loaded(self, kernel: Kernel) -> LoadedKernel: ...
    def numba_kernel(self, kernel: Kernel) -> tuple[Any, Any]: ...
    def synchronize(self) -> None: ...
    def no_frees(self) -> AbstractContextManager[None]: ...
    def drop(self, name: str, handle: Any) -> None: ...


class Block:
    """Argument values of one launch and the table of their addresses that the driver takes."""

    __slots__ = ("_pack", "_table", "_values", "address")

    def __init__(self, pack: struct.Struct) -> None:
        n = max(pack.size // 8, 1)
        self._pack = pack
        self._values = (ctypes.c_uint64 * n)()
        at = ctypes.addressof(self._values)
        self._table = (ctypes.c_void_p * n)(*[at + 8 * i for i in range(n)])
        self.address = ctypes.addressof(self._table)

    def set(self, values: tuple[Any, ...]) -> None:
        """Write the values.

        Raises
        ------
        struct.error
            If one does not fit its type: a defect of the caller.
        """
        self._pack.pack_into(self._values, 0, *values)


class Program:
    """One pass, ready to be replayed.

    Parameters
    ----------
    device : PassDevice
    log : list of tuple
        ('launch', kernel, grid, values), ('copy', target, source, n_bytes) and
        ('fill', target, byte, n_bytes), in order; see `Context.recording`.
    mode : {'graph', 'prepared', 'numba'}
        'prepared' calls the driver once per entry with blocks made here. 'graph' captures those
        calls at the first replay and submits them in one call. 'numba' goes through numba-cuda's
        own compiler and launcher, to tell its faults from ours.

    Attributes
    ----------
    launches : int
        Kernels launched by one replay.
    """

    def __init__(self, device: PassDevice, log: list[Entry], mode: str) -> None:
        self._device = device
        self._log = log = list(log)
        self.mode = mode
        self.launches = sum(entry[0] == "launch" for entry in log)
        self._keep: list[Block] = []
        through = self._numba_launch if mode == "numba" else self._launch
        self._calls = [
            through(*entry[1:]) if entry[0] == "launch" else self._memory(*entry) for entry in log
        ]
        self._graph: Any = None

    def replay(self) -> None:
        """Launch everything again, in stream order, without waiting for it."""
        self._device.attach()
        if self.mode != "graph":
            self._run()
            return
        if self._graph is None:
            self._graph = self._capture()
        code = self._device.driver.raw.cuGraphLaunch(self._graph, self._device.stream)[0]
        if code:
            raise self._device.driver.error("cuGraphLaunch", int(code))

    def time_launches(self) -> dict[str, tuple[int, float]]:
        """Launches and device seconds per kernel of one replay, an event on either side of each.

        Seconds include the gap between an event and its neighbour, a few microseconds; kernels
        do not overlap. Copies and fills appear under their own names.
        """
        device, call = self._device, self._device.driver.call
        device.attach()
        names = [e[1].name if e[0] == "launch" else e[0] for e in self._log]
        events = [call("cuEventCreate", 0) for _ in range(len(names) + 1)]
        try:
            call("cuEventRecord", events[0], device.stream)
            for (function, args), event in zip(self._calls, events[1:]):
                self._check(function(*args))
                call("cuEventRecord", event, device.stream)
            device.synchronize()
            table: dict[str, tuple[int, float]] = {}
            for name, before, after in zip(names, events, events[1:]):
                n, seconds = table.get(name, (0, 0.0))
                table[name] = n + 1, seconds + call("cuEventElapsedTime", before, after) * 1e-3
            return table
        finally:
            for event in events:
                device.driver.attempt("cuEventDestroy", event)

    def __del__(self) -> None:
        if getattr(self, "_graph", None) is not None:
            self._device.drop("cuGraphExecDestroy", self._graph)

    def _run(self) -> None:
        for function, args in self._calls:
            answer = function(*args)
            if answer is not None and answer[0]:
                self._check(answer)

    def _check(self, answer: Any) -> None:
        if answer is not None and answer[0]:
            raise self._device.driver.error("a launch of a recorded pass", int(answer[0]))

    def _launch(self, kernel: Kernel, grid: tuple[int, int, int], values: Entry) -> Any:
        loaded = self._device.loaded(kernel)
        block = Block(loaded.pack)
        block.set(values)
        self._keep.append(block)
        return self._device.driver.raw.cuLaunchKernel, (
            loaded.function,
            *grid,
            kernel.threads,
            1,
            1,
            kernel.dynamic_smem,
            self._device.stream,
            block.address,
            0,
        )

    def _numba_launch(self, kernel: Kernel, grid: tuple[int, int, int], values: Entry) -> Any:
        launch, stream = self._device.numba_kernel(kernel)
        return launch, (
            kernel.grouped(values),
            grid,
            (kernel.threads, 1, 1),
            stream,
            kernel.dynamic_smem,
        )

    def _memory(self, kind: str, target: int, what: int, n_bytes: int) -> Any:
        raw = self._device.driver.raw
        function: Callable[..., Any] = raw.cuMemsetD8Async
        if kind == "copy":
            function = raw.cuMemcpyDtoDAsync
        return function, (target, what, n_bytes, self._device.stream)

    def _capture(self) -> Any:
        """The calls as one executable graph; their kernels are loaded already."""
        device, call = self._device, self._device.driver.call
        mode = device.driver.raw.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        with device.no_frees():
            call("cuStreamBeginCapture", device.stream, mode)
            try:
                self._run()
            finally:
                # Also after an error: the stream must not stay in capture.
                code, graph = device.driver.attempt("cuStreamEndCapture", device.stream)
        if code:
            raise BackendError(
                f"graph: expected a pass that can be captured, found error {code} "
                "(--launch prepared does without)"
            )
        try:
            return call("cuGraphInstantiate", graph, 0)
        finally:
            device.driver.attempt("cuGraphDestroy", graph)
