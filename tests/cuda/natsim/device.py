"""The simulated device: host memory between red zones, kernels run natively."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil
from numba.cuda import types

from engine.ops.cuda.build.kernel import Kernel
from engine.ops.cuda.device.record import Entry, Extents, dependencies
from engine.ops.device import LaunchTime
from tests.cuda.natsim.ops import LANES
from tests.cuda.natsim.runtime import ARENA, ERRORS, LIVE, OK, engine_of, runtime
from tests.cuda.natsim.translate import FAULTS, translate

RED_ZONE = 256  # bytes before and after each allocation
POISON = 0xFF  # float NaN, integer -1


class SimulationError(AssertionError):
    """A kernel did what a device leaves undefined."""


class _Compiled:
    def __init__(self, kernel: Kernel) -> None:
        runtime()
        module = translate(kernel)
        self.engine = engine_of(*module.texts)
        self.address = self.engine.get_function_address("sim_kernel")
        self.shared = module.shared
        self.red_zones = np.array(module.red_zones, np.int64)


COMPARED = 8  # launches of a kernel whose read-only memory is compared

_compiled: dict[Kernel, _Compiled] = {}
_compared: dict[Kernel, int] = {}


class _Program:
    """Entries of a recording (see `Context.recording`), done again.

    Each replay takes them in another order that their dependencies allow, since a graph may: an
    effect that a kernel does not declare shows as other bits.
    """

    def __init__(self, device: NatsimDevice, log: Sequence[Entry]) -> None:
        self._device = device
        self._log = log
        self._before = dependencies(log)
        self._chance = random.Random(len(log))
        self.launches = sum(entry.kind == "launch" for entry in log)

    def replay(self) -> None:
        for at in topological(self._before, self._chance):
            entry = self._log[at]
            if entry.kernel is not None and entry.grid is not None:
                self._device.launch(entry.kernel, entry.grid, entry.values)
            else:
                getattr(self._device, entry.kind)(*entry.values)

    def time_launches(self) -> list[LaunchTime]:
        """The entries in their order, as if each took no time."""
        return [LaunchTime(e.name, e.grid or (), 0.0, e.weight_bytes) for e in self._log]


def topological(before: Sequence[tuple[int, ...]], chance: random.Random) -> list[int]:
    """A random order in which every entry comes after those that it waits for."""
    waits = [len(others) for others in before]
    after: list[list[int]] = [[] for _ in before]
    for at, others in enumerate(before):
        for other in others:
            after[other].append(at)
    ready = [at for at, n in enumerate(waits) if not n]
    order = []
    while ready:
        at = ready.pop(chance.randrange(len(ready)))
        order.append(at)
        for other in after[at]:
            waits[other] -= 1
            if not waits[other]:
                ready.append(other)
    return order


class NatsimDevice:
    """A device of `context.Device` that runs kernels on this processor.

    Parameters
    ----------
    reverse : bool
        Run lanes, warps and blocks in descending order. A kernel whose result changes relies on
        an order that no device promises.
    """

    def __init__(self, reverse: bool = False) -> None:
        self.reverse = reverse
        self._memory: dict[int, np.ndarray] = {}
        self._extents = Extents()

    def alloc(self, n_bytes: int) -> int:
        whole = np.full(n_bytes + 2 * RED_ZONE + 256, POISON, np.uint8)
        address = -(-(whole.ctypes.data + RED_ZONE) // 256) * 256
        start = address - whole.ctypes.data
        self._memory[address] = whole[start - RED_ZONE : start + n_bytes + RED_ZONE]
        self._extents.add(address, n_bytes)
        return address

    def free(self, address: int) -> None:
        del self._memory[address]
        self._extents.remove(address)

    def _bytes(self, address: int, n_bytes: int) -> np.ndarray:
        """The bytes at an address; they must lie in one allocation."""
        for start, block in self._memory.items():
            if start <= address and address + n_bytes <= start + block.size - 2 * RED_ZONE:
                at = address - start + RED_ZONE
                return block[at : at + n_bytes]
        raise SimulationError(f"copy: expected memory of this device, found {address:#x}")

    def upload(self, address: int, host: np.ndarray) -> None:
        self._bytes(address, host.nbytes)[:] = np.frombuffer(host.tobytes(), np.uint8)

    def download(self, host: np.ndarray, address: int) -> None:
        data = self._bytes(address, host.nbytes)
        host.reshape(-1).view(np.uint8)[:] = data

    def copy(self, target: int, source: int, n_bytes: int) -> None:
        self._bytes(target, n_bytes)[:] = self._bytes(source, n_bytes).copy()

    def fill(self, address: int, byte: int, n_bytes: int) -> None:
        self._bytes(address, n_bytes)[:] = byte

    def synchronize(self) -> None:
        pass

    def launch(self, kernel: Kernel, grid: tuple[int, int, int], args: tuple[Any, ...]) -> None:
        """Run every block of a launch.

        Raises
        ------
        SimulationError
            Threads diverged at a barrier or collective, accessed memory unaligned or outside
            arrays, or wrote outside allocations.
        """
        if not 0 < kernel.threads <= LANES:
            raise SimulationError(f"{kernel.name}: expected 1 to {LANES} threads")
        if any(n < 1 for n in grid) or grid[0] >= 2**31 or max(grid[1:]) > 65535:
            raise SimulationError(
                f"{kernel.name}: expected a grid that a device takes, found {grid}"
            )
        if kernel not in _compiled:
            _compiled[kernel] = _Compiled(kernel)
        compiled, sim = _compiled[kernel], runtime()
        if compiled.shared + kernel.dynamic_smem > ARENA:
            raise SimulationError(f"{kernel.name}: expected at most {ARENA} bytes of shared memory")
        for i, (kind, value) in enumerate(zip(kernel.args, args)):
            sim.args[i] = _word(kernel, i, kind, value)
        unwritten, written = self._effects(kernel, args)
        for k, start in enumerate(written):
            size_of = self._memory[start].size - 2 * RED_ZONE
            sim.written[2 * k : 2 * k + 2] = start, start + size_of
        sim.n_written[0] = len(written)
        size = compiled.shared + kernel.dynamic_smem
        sim.grid[:] = grid
        sim.threads[0] = kernel.threads
        sim.dynamic_size[0] = kernel.dynamic_smem
        sim.shared_size[0] = size
        sim.entry[0] = compiled.address
        sim.code[0] = 0
        outcome = sim.run(
            sim.state, sim.site, sim.fresh, sim.block, sim.grid, sim.code,
            sim.shared, size, compiled.red_zones, kernel.threads, self.reverse,
        )  # fmt: skip
        where = f"{kernel.name}: block {tuple(int(i) for i in sim.block)}"
        if outcome not in (OK, LIVE):
            raise SimulationError(f"{where}: {ERRORS[outcome]}")
        if sim.code[0]:
            raise SimulationError(f"{where}: {FAULTS[int(sim.code[0])]}")
        self._check_red_zones(kernel)
        for name, block, before in unwritten:
            if block.tobytes() != before:
                raise SimulationError(
                    f"{kernel.name}: expected {name} to be only read, as the kernel declares, "
                    "found it changed"
                )

    def _effects(
        self, kernel: Kernel, args: tuple[Any, ...]
    ) -> tuple[list[tuple[str, np.ndarray, bytes]], list[int]]:
        """Allocations that a launch only reads (name, bytes, and a copy), and those it writes.

        Copies take time, so that they are made for the first launches of a kernel only.
        """
        if kernel.writes is None:
            return [], []
        held: dict[int, str] = {}
        written: set[int] = set()
        for name, kind, writes, value in zip(kernel.names, kernel.args, kernel.written, args):
            if isinstance(kind, types.CPointer) or kind == types.uint64:
                start = self._extents.holding(int(value))
                if start is not None:
                    held[start] = name
                    if writes:
                        written.add(start)
        seen = _compared[kernel] = _compared.get(kernel, 0) + 1
        if seen > COMPARED:
            return [], sorted(written)
        unwritten = [
            (name, self._memory[start], self._memory[start].tobytes())
            for start, name in held.items()
            if start not in written
        ]
        return unwritten, sorted(written)

    def program(self, log: Sequence[Entry], mode: str) -> _Program:
        """A recorded pass; every mode runs entry by entry here."""
        return _Program(self, log)

    def free_bytes(self) -> int:
        return psutil.virtual_memory().available

    def facts(self) -> dict[str, Any]:
        return {"device_name": "simulated on this processor"}

    def notices(self) -> list[str]:
        return ["device: CUDA kernels run on this processor, for tests, not for speed"]

    def _check_red_zones(self, kernel: Kernel) -> None:
        for block in self._memory.values():
            if (block[:RED_ZONE] != POISON).any() or (block[-RED_ZONE:] != POISON).any():
                n_bytes = block.size - 2 * RED_ZONE
                raise SimulationError(
                    f"{kernel.name}: expected writes inside allocations, found bytes beside one of "
                    f"{n_bytes} bytes changed"
                )


def _word(kernel: Kernel, i: int, kind: Any, value: Any) -> int:
    """An argument as 64 bits; values that the kernel's type cannot hold are refused."""
    if isinstance(kind, types.Float):
        return int(np.float32(value).view(np.int32))
    value = int(value)
    if isinstance(kind, types.Integer):
        n = kind.bitwidth
        low, high = (-(2 ** (n - 1)), 2 ** (n - 1)) if kind.signed else (0, 2**n)
        if not low <= value < high:
            raise SimulationError(f"{kernel.name}: argument {i}: expected {kind}, found {value}")
    return value - 2**64 if value >= 2**63 else value
