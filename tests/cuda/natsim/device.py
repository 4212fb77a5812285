"""The simulated device: host memory between red zones, kernels run natively."""

from __future__ import annotations

from typing import Any

import numpy as np
import psutil
from numba.cuda import types

from engine.ops.cuda.build.kernel import Kernel
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


_compiled: dict[Kernel, _Compiled] = {}


class _Program:
    """Entries of a recording (see `Context.recording`), done again in order."""

    def __init__(self, device: NatsimDevice, log: list[tuple[Any, ...]]) -> None:
        self._device = device
        self._log = log
        self.launches = sum(entry[0] == "launch" for entry in log)

    def replay(self) -> None:
        for what, *values in self._log:
            getattr(self._device, what)(*values)


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

    def alloc(self, n_bytes: int) -> int:
        whole = np.full(n_bytes + 2 * RED_ZONE + 256, POISON, np.uint8)
        address = -(-(whole.ctypes.data + RED_ZONE) // 256) * 256
        start = address - whole.ctypes.data
        self._memory[address] = whole[start - RED_ZONE : start + n_bytes + RED_ZONE]
        return address

    def free(self, address: int) -> None:
        del self._memory[address]

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

    def program(self, log: list[tuple[Any, ...]], mode: str) -> _Program:
        """A recorded pass; every mode runs entry by entry here."""
        return _Program(self, list(log))

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
