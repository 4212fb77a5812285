"""What the tests of the driver do in a process of its own, over the stub library; prints JSON.

Run as ``python -m tests.cuda.stub.sessions NAME [ARGUMENTS]``.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from engine.errors import EngineError
from engine.ops.cuda.build.compile import entry_name
from engine.ops.cuda.build.kernel import F32, I32, U32, U32P, kernel
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.device.driver import CudaDevice, timeout_from
from engine.ops.cuda.device.residency import FileResidency
from engine.weights.residency import settings_from

LARGE = 100_000  # bytes of dynamic shared memory that need leave


@kernel(U32P, U32, threads=64, dynamic_smem=LARGE)
def stub_add(x, n):
    """The stub adds n to the first word."""
    x[0] += n


@kernel(U32P, U32, I32, F32, threads=32)
def stub_other(x, n, i, f):
    """The stub does nothing."""


@kernel(U32P, threads=32, dynamic_smem=1 << 20)
def stub_greedy(x):
    """Asks for more shared memory than there is."""


def compiler(what: Any, cc: tuple[int, int]) -> Any:
    """Images of the stub are the entry's name."""
    name = entry_name(what)
    return SimpleNamespace(image=name.encode() + b"\0", entry=name)


def open_stub(environment: dict[str, str] | None = None) -> tuple[CudaDevice, Context]:
    import os

    device = CudaDevice(0, compiler, timeout_from(environment or os.environ))
    return device, Context(device)


def words(array: Any) -> list[int]:
    return np.asarray(array).tolist()


def start() -> Any:
    device, _ = open_stub()
    return {"facts": device.facts(), "notices": device.notices(), "free": device.free_bytes()}


def memory() -> Any:
    """Round trips of small and large arrays, copies, fills, frees."""
    device, ctx = open_stub()
    random = np.random.default_rng(1)
    small = random.standard_normal(1000).astype(np.float32)
    large = random.integers(0, 256, (3, (70 << 20) // 3 + 1), np.uint8)
    a, b = ctx.put(small), ctx.put(large)
    # The staging buffers are free to change once upload returns: so is the source.
    again = large.copy()
    c = ctx.put(again)
    again[:] = 0
    d = ctx.empty(small.shape)
    ctx.copy(d, a)
    e = ctx.zeros((5,), np.uint32)
    ctx.fill(e[1:3], 0xAB)
    same = [
        np.array_equal(np.asarray(x), y)
        for x, y in ((a, small), (b, large), (c, large), (d, small))
    ]
    out = {"same": same, "filled": words(e), "transfers": device.facts()["transfers"]}
    before = device.free_bytes()
    del b, c
    gc.collect()
    out["given_back"] = device.free_bytes() - before
    out["large"] = large.nbytes
    device.close()
    del a, d, e, ctx
    return out


def passes() -> Any:
    """A recorded pass in every mode: 5 launches that add 2, a copy, a fill."""
    device, ctx = open_stub()
    x = ctx.zeros((4,), np.uint32)
    with ctx.recording() as log:
        for _ in range(5):
            ctx.launch(stub_add, (3, 2), x, 2)
        ctx.launch(stub_other, 1, x, 2**32 - 1, -5, 0.5)
        ctx.copy(x[1:2], x[0:1])
        ctx.fill(x[3:4], 1)
    out: dict[str, Any] = {"recorded": words(x)}
    for mode in ("prepared", "graph"):
        program = device.program(log, mode)
        for _ in range(3):
            program.replay()
        out[mode] = words(x)
        out[f"{mode} launches"] = program.launches
        out[f"{mode} times"] = [t._asdict() for t in program.time_launches()]
        del program
    out["token"] = device.read_i32(x.address)
    device.close()
    return out


def branches() -> Any:
    """Copies and sums over three arrays: a graph in any order of its edges does the same."""
    device, ctx = open_stub()
    x, y, z = (ctx.zeros((4,), np.uint32) for _ in range(3))
    with ctx.recording() as log:
        ctx.launch(stub_add, 1, x, 2)
        ctx.launch(stub_add, 1, y, 7)
        ctx.copy(z[1:2], x[0:1])
        ctx.launch(stub_add, 1, x, 1)
        ctx.launch(stub_add, 1, x, 2)
        ctx.copy(y[2:3], z[1:2])
        ctx.fill(z[3:4], 1)
        ctx.copy(z[2:3], y[0:1])
        ctx.launch(stub_add, 1, y, 1)
    program = device.program(log, "graph")
    for _ in range(15):
        program.replay()
    return {"words": [words(a) for a in (x, y, z)], "notices": device.notices()}


def other_thread() -> Any:
    """A thread opens the device; others use it, collect its garbage and close it."""
    import threading

    device, ctx = open_stub()
    out: dict[str, Any] = {}

    def use() -> None:
        x = ctx.put(np.arange(4, dtype=np.uint32))
        large = ctx.put(np.ones(1 << 20, np.uint32))
        with ctx.recording() as log:
            ctx.launch(stub_add, 1, x, 5)
            ctx.copy(x[1:2], x[0:1])
        for mode in ("graph", "prepared"):
            program = device.program(log, mode)
            program.replay()
            program.time_launches()
        device.synchronize()
        out["x"], out["token"] = words(x), device.read_i32(x.address)
        out["large"] = int(np.asarray(large).sum())
        free = device.free_bytes()
        del large
        gc.collect()
        out["given_back"] = device.free_bytes() - free

    def leave() -> None:
        device.close()
        out["closed"] = True

    for work in (use, use, leave):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    return out


def two_devices() -> Any:
    """One thread uses two devices in turn: each call has its own device's context."""
    (_, a), (_, b) = open_stub(), open_stub()
    x, y = a.zeros((4,), np.uint32), b.zeros((4,), np.uint32)
    for _ in range(3):
        a.launch(stub_add, 1, x, 1)
        b.launch(stub_add, 1, y, 2)
    return words(x) + words(y)


def relief() -> Any:
    """The first allocation is refused where memory is shared; what is given back lets it pass."""
    device, ctx = open_stub()
    asked: list[int] = []
    device.relief.append(lambda: asked.append(1))
    try:
        return {"words": words(ctx.zeros((2,), np.uint32)), "asked": len(asked)}
    except EngineError as error:
        return {"error": type(error).__name__, "asked": len(asked)}


def graph_with_garbage() -> Any:
    """An array dies while a pass is captured; its memory is given back afterwards."""
    device, ctx = open_stub()
    x = ctx.zeros((4,), np.uint32)
    dying = [ctx.zeros((1000,))]
    with ctx.recording() as log:
        ctx.launch(stub_add, 1, x, 1)
    program = device.program(log, "graph")
    free = device.free_bytes()
    run = program._run

    def run_and_drop() -> None:
        run()
        dying.clear()

    program._run = run_and_drop  # type: ignore[method-assign]
    program.replay()
    return {"x": words(x), "given_back": device.free_bytes() - free}


def threads() -> Any:
    """A device opened in this thread does every kind of work in threads of their own."""
    device, ctx = open_stub()
    x = ctx.zeros((4,), np.uint32)
    with ctx.recording() as log:
        ctx.launch(stub_add, 1, x, 1)
    program = device.program(log, "graph")
    dying = [ctx.zeros((1000,))]
    free = device.free_bytes()

    def put() -> Any:
        return words(ctx.put(np.arange(3, dtype=np.uint32)))

    def replay() -> Any:
        program.replay()
        return words(x)[0]

    work = {
        "put": put,
        "replay": replay,
        "launch": lambda: ctx.launch(stub_add, 1, x, 5),
        "token": lambda: device.read_i32(x.address),
        "fill": lambda: ctx.fill(x[2:3], 1),
        "copy": lambda: ctx.copy(x[1:2], x[0:1]),
        "load": lambda: device.loaded(stub_other).function is not None,
        "time": lambda: len(program.time_launches()),
        "free": dying.clear,
        "free bytes": lambda: device.free_bytes() > free,
        "wait": device.synchronize,
        "record": lambda: device.program(log, "prepared").launches,
        "close": device.close,
    }
    out: dict[str, Any] = {}

    def run(name: str) -> None:
        try:
            out[name] = work[name]()
        except EngineError as error:
            out[name] = str(error)

    for name in work:
        thread = threading.Thread(target=run, args=(name,))
        thread.start()
        thread.join()
    return out


def greedy() -> Any:
    _, ctx = open_stub()
    ctx.launch(stub_greedy, 1, ctx.zeros((1,), np.uint32))


def overflow() -> Any:
    """Needs more than there is, then goes on with less."""
    _, ctx = open_stub()
    kept = ctx.zeros((100,), np.uint32)
    try:
        ctx.empty((1 << 30,))
    except EngineError as error:
        ctx.launch(stub_add, 1, kept, 7)
        return {"error": str(error), "kind": type(error).__name__, "kept": words(kept)[0]}


def lost() -> Any:
    """A launch ends the context; everything after it says so, and leaving is quiet."""
    device, ctx = open_stub()
    x = ctx.zeros((4,), np.uint32)
    said = []
    for _ in range(3):
        for step in (
            lambda: ctx.launch(stub_add, 1, x, 1),
            lambda: words(x),
            lambda: ctx.empty((10,)),
            device.synchronize,
        ):
            try:
                step()
            except EngineError as error:
                said.append((type(error).__name__, str(error), error.exit_code))
    gc.collect()
    device.close()
    return said


def waits() -> Any:
    _, ctx = open_stub()
    x = ctx.zeros((4,), np.uint32)
    for _ in range(5):
        ctx.launch(stub_add, 1, x, 1)
    return words(x)


def by_numba() -> Any:
    device, ctx = open_stub()
    x = ctx.zeros((4,), np.uint32)
    with ctx.recording() as log:
        ctx.launch(stub_add, 1, x, 1)
    device.program(log, "numba")


def residency(path: str, mode: str, budget: str) -> Any:
    """Place every tensor of a file and read the first words of the mapped ones."""
    import os

    from engine.forward.model import VECTOR_SUFFIXES
    from engine.gguf.reader import open_gguf

    with open_gguf(Path(path)) as file:
        device, ctx = open_stub()
        settings = settings_from(mode, float(budget) if budget else None, os.environ)
        tensors = [t for t in file.tensors.values() if not t.name.endswith(VECTOR_SUFFIXES)]
        held = FileResidency(device, tensors, settings)
        placed: dict[str, Any] = {}
        for tensor in tensors:
            where = held.place(tensor)
            placed[tensor.name] = where.kind
            if where.kind == "mapped":
                # The stub's device memory is this process's memory.
                import ctypes

                seen = (ctypes.c_uint8 * 16).from_address(where.address)
                assert bytes(seen) == tensor.data[:16].tobytes(), tensor.name
            else:
                ctx.put(tensor.data)
        out = {
            "placed": placed,
            "facts": held.facts(),
            "notices": held.notices(),
            "transfers": device.facts()["transfers"],
        }
        held.close()
        device.close()
        return out


def main() -> None:
    name, *arguments = sys.argv[1:]
    try:
        answer = globals()[name](*arguments)
    except EngineError as error:
        answer = {"kind": type(error).__name__, "error": str(error), "exit": error.exit_code}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
