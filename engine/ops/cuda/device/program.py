"""Recorded passes: the launches of one pass with their arguments packed, replayed at low cost.

A graph is built from nodes and edges, so that entries which do not depend on each other may run
side by side; `record.dependencies` says which do. A driver that is too old for that captures the
calls of one stream instead, in order.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from numba.cuda import types

from engine.errors import BackendError, EngineError
from engine.ops.cuda.build.kernel import Kernel
from engine.ops.cuda.device.api import Driver
from engine.ops.cuda.device.record import Entry, dependencies
from engine.ops.device import LaunchTime

PROGRAMMATIC_PORT = 1  # CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC

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

    @property
    def branches(self) -> bool:
        """Whether graphs are built of nodes that may run side by side."""

    @property
    def early(self) -> bool:
        """Whether a node of a graph may begin before the one that it depends on has ended."""

    def refuse_early(self, error: EngineError) -> None:
        """The driver does not take such graphs: there will be none."""

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
    log : sequence of Entry
        In order; see `Context.recording`.
    mode : {'graph', 'prepared', 'numba'}
        'prepared' calls the driver once per entry with blocks made here. 'graph' makes one graph
        of them at the first replay and submits it in one call. 'numba' goes through numba-cuda's
        own compiler and launcher, to tell its faults from ours.

    Attributes
    ----------
    launches : int
        Kernels launched by one replay.
    """

    def __init__(self, device: PassDevice, log: Sequence[Entry], mode: str) -> None:
        self._device = device
        self._log = log
        self.mode = mode
        self.launches = sum(entry.kind == "launch" for entry in log)
        self._blocks: list[Block] = []
        self._graph: Any = None
        device.driver.enter()
        through = self._numba_launch if mode == "numba" else self._launch
        self._calls = [
            through(entry) if entry.kind == "launch" else self._memory(entry) for entry in log
        ]

    def replay(self) -> None:
        """Launch everything again, in stream order, without waiting for it."""
        self._device.driver.enter()
        if self.mode != "graph":
            self._run()
            return
        if self._graph is None:
            self._graph = self._capture()
        code = self._device.driver.raw.cuGraphLaunch(self._graph, self._device.stream)[0]
        if code:
            raise self._device.driver.error("cuGraphLaunch", int(code))

    def time_launches(self) -> list[LaunchTime]:
        """Every entry of one replay in its order, with its device seconds between two events.

        Seconds include the gap between an event and its neighbour, a few microseconds; entries
        do not overlap, whatever a graph would do. Copies and fills appear under their own names.
        """
        device, call = self._device, self._device.driver.call
        events: list[Any] = []
        try:
            for _ in range(len(self._log) + 1):
                events.append(call("cuEventCreate", 0))
            call("cuEventRecord", events[0], device.stream)
            for (function, args), event in zip(self._calls, events[1:]):
                self._check(function(*args))
                call("cuEventRecord", event, device.stream)
            device.synchronize()
            return [
                LaunchTime(
                    entry.name,
                    entry.grid or (),
                    call("cuEventElapsedTime", before, after) * 1e-3,
                    entry.weight_bytes,
                )
                for entry, before, after in zip(self._log, events, events[1:])
            ]
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

    def _launch(self, entry: Entry) -> Any:
        kernel, grid = entry.kernel, entry.grid
        assert kernel is not None and grid is not None
        loaded = self._device.loaded(kernel)
        block = Block(loaded.pack)
        block.set(entry.values)
        self._blocks.append(block)
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

    def _numba_launch(self, entry: Entry) -> Any:
        kernel = entry.kernel
        assert kernel is not None
        launch, stream = self._device.numba_kernel(kernel)
        return launch, (
            kernel.grouped(entry.values),
            entry.grid,
            (kernel.threads, 1, 1),
            stream,
            kernel.dynamic_smem,
        )

    def _memory(self, entry: Entry) -> Any:
        raw = self._device.driver.raw
        function: Callable[..., Any] = raw.cuMemsetD8Async
        if entry.kind == "copy":
            function = raw.cuMemcpyDtoDAsync
        return function, (*entry.values, self._device.stream)

    def _capture(self) -> Any:
        """The entries as one executable graph; their kernels are loaded already."""
        device = self._device
        if device.branches and device.early:
            try:
                return self._instance(self._nodes(early=True))
            except BackendError as error:
                device.refuse_early(error)
        return self._instance(self._nodes(early=False) if device.branches else self._captured())

    def _instance(self, graph: Any) -> Any:
        try:
            return self._device.driver.call("cuGraphInstantiate", graph, 0)
        finally:
            self._device.driver.attempt("cuGraphDestroy", graph)

    def _nodes(self, early: bool) -> Any:
        """A graph of nodes, each behind those that it depends on.

        `early`: a launch that waits for one other launch only may begin before that has ended;
        machine code waits inside (see `build.compile`). With several to wait for there is no
        telling which drivers take such edges.
        """
        call = self._device.driver.call
        graph = call("cuGraphCreate", 0)
        try:
            nodes: list[Any] = []
            blocks = iter(self._blocks)
            for entry, before in zip(self._log, dependencies(self._log)):
                block = next(blocks) if entry.kind == "launch" else None
                behind = [nodes[k] for k in before]
                if early and block and len(before) == 1 and self._log[before[0]].kernel is not None:
                    nodes.append(self._early_node(graph, entry, behind, block))
                else:
                    nodes.append(self._node(graph, entry, behind, block))
        except EngineError:
            self._device.driver.attempt("cuGraphDestroy", graph)
            raise
        return graph

    def _early_node(self, graph: Any, entry: Entry, before: list[Any], block: Block) -> Any:
        raw = self._device.driver.raw
        edge = raw.CUgraphEdgeData()
        edge.from_port = PROGRAMMATIC_PORT
        edge.type = raw.CUgraphDependencyType.CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC.value
        params = raw.CUgraphNodeParams()
        params.type = raw.CUgraphNodeType.CU_GRAPH_NODE_TYPE_KERNEL
        params.kernel = self._kernel_params(raw.CUDA_KERNEL_NODE_PARAMS_v3(), entry, block)
        return self._device.driver.call("cuGraphAddNode", graph, before, [edge], 1, params)

    def _kernel_params(self, params: Any, entry: Entry, block: Block) -> Any:
        kernel, grid = entry.kernel, entry.grid
        assert kernel is not None and grid is not None
        params.func = self._device.loaded(kernel).function
        params.gridDimX, params.gridDimY, params.gridDimZ = grid
        params.blockDimX, params.blockDimY, params.blockDimZ = kernel.threads, 1, 1
        params.sharedMemBytes = kernel.dynamic_smem
        params.kernelParams = block.address
        return params

    def _node(self, graph: Any, entry: Entry, before: list[Any], block: Block | None) -> Any:
        raw, call = self._device.driver.raw, self._device.driver.call
        if entry.kind == "launch":
            assert block is not None
            params = self._kernel_params(raw.CUDA_KERNEL_NODE_PARAMS(), entry, block)
            return call("cuGraphAddKernelNode", graph, before, len(before), params)
        target, what, n_bytes = entry.values
        context = self._device.driver.context
        if entry.kind == "fill":
            fill = raw.CUDA_MEMSET_NODE_PARAMS()
            fill.dst, fill.value, fill.elementSize = raw.CUdeviceptr(target), what, 1
            fill.width, fill.height, fill.pitch = n_bytes, 1, 0
            return call("cuGraphAddMemsetNode", graph, before, len(before), fill, context)
        copy = raw.CUDA_MEMCPY3D()
        device_memory = raw.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.srcMemoryType = copy.dstMemoryType = device_memory
        copy.srcDevice, copy.dstDevice = raw.CUdeviceptr(what), raw.CUdeviceptr(target)
        copy.WidthInBytes, copy.Height, copy.Depth = n_bytes, 1, 1
        return call("cuGraphAddMemcpyNode", graph, before, len(before), copy, context)

    def _captured(self) -> Any:
        """A graph of the calls of this stream, one behind the other."""
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
        return graph
