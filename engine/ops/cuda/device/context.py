"""What ops run on: one device, its memory, its stream of launches, and who wrote what.

Ops are plain functions that take a `Context` first. They launch kernels through `launch`, take
working memory through `scratch`, and say through `wrote` which arrays they changed, so that a
quantised companion of an array is used only while it is true.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numba import cuda
from numba.cuda import types

from engine.ops.cuda.build.kernel import U32, U32P, Kernel, device, kernel
from engine.ops.cuda.device.array import DeviceArray


class Device(Protocol):
    """A device: the CUDA driver's, or the native simulation of one."""

    def alloc(self, n_bytes: int) -> int:
        """Address of fresh memory, aligned to 256 bytes; contents unspecified."""

    def free(self, address: int) -> None: ...

    def upload(self, address: int, host: np.ndarray) -> None: ...

    def download(self, host: np.ndarray, address: int) -> None: ...

    def copy(self, target: int, source: int, n_bytes: int) -> None: ...

    def fill(self, address: int, byte: int, n_bytes: int) -> None: ...

    def launch(self, kernel: Kernel, grid: tuple[int, int, int], args: tuple[Any, ...]) -> None:
        """Launch with scalars and addresses already in the kernel's argument types."""

    def synchronize(self) -> None: ...

    def program(self, log: list[tuple[Any, ...]], mode: str) -> Any:
        """Something whose `replay()` does again what the log lists (see `Context.recording`)."""

    def free_bytes(self) -> int: ...

    def facts(self) -> dict[str, Any]: ...

    def notices(self) -> list[str]: ...


POKED = 16  # words that `poke` can write


@device
def _poke_four(target, n, first, words):
    """Write four words from `first` on, as far as they are among the first n."""
    if n > first:
        target[first] = words[0]
    if n > first + 1:
        target[first + 1] = words[1]
    if n > first + 2:
        target[first + 2] = words[2]
    if n > first + 3:
        target[first + 3] = words[3]


@kernel(U32P, U32, types.UniTuple(U32, POKED), threads=32)
def poke_words(target, n, words):
    """Write the first n of the words; one thread, since they are few.

    A loop over the words would be shorter, but it takes four times the registers on sm_121a.
    """
    if cuda.threadIdx.x == 0:
        _poke_four(target, n, 0, words[:4])
        _poke_four(target, n, 4, words[4:8])
        _poke_four(target, n, 8, words[8:12])
        _poke_four(target, n, 12, words[12:])


class _Allocation:
    """Device memory that is given back when nothing refers to it."""

    __slots__ = ("_device", "address")

    def __init__(self, device: Device, n_bytes: int) -> None:
        self._device = device
        self.address = device.alloc(max(n_bytes, 1))

    def __del__(self) -> None:
        self._device.free(self.address)


class Context:
    """One device and the state that ops share on it.

    Parameters
    ----------
    device : Device
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        # Position of the first row of the pass: device memory, so that a recorded pass can be
        # replayed at another position.
        self.pos = self.zeros((1,), np.int32)
        self._scratch: dict[str, DeviceArray] = {}
        self._companions: dict[int, dict[str, Any]] = {}
        self._log: list[tuple[Any, ...]] | None = None
        # Bytes of weights that the launches of a recording read, by kernel; for tables of speed.
        self.charges: dict[str, int] = {}
        # Changes when working memory moves: recorded passes that point to the old are void.
        self.generation = 0

    def empty(self, shape: tuple[int, ...], dtype: Any = np.float32) -> DeviceArray:
        """Uninitialised device memory."""
        n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        owner = _Allocation(self.device, n_bytes)
        return DeviceArray(self, owner.address, shape, dtype, owner)

    def zeros(self, shape: tuple[int, ...], dtype: Any = np.float32) -> DeviceArray:
        array = self.empty(shape, dtype)
        self.device.fill(array.address, 0, array.nbytes)
        return array

    def put(self, host: np.ndarray) -> DeviceArray:
        """Copy of a host array on the device."""
        array = self.empty(host.shape, host.dtype)
        self.upload(array, np.ascontiguousarray(host))
        return array

    def scratch(self, name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> DeviceArray:
        """Working memory of one op, reused by every call with this name; it only grows.

        Two uses of one name must not be alive at the same time.
        """
        n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        held = self._scratch.get(name)
        if held is None or held.nbytes < n_bytes:
            held = self.empty((max(n_bytes, 256),), np.uint8)
            self._scratch[name] = held
            self.generation += 1
        return DeviceArray(self, held.address, shape, dtype, held)

    @contextmanager
    def recording(self) -> Iterator[list[tuple[Any, ...]]]:
        """Run what follows and list it: ('launch', kernel, grid, values), ('copy', target,
        source, n_bytes) and ('fill', target, byte, n_bytes)."""
        assert self._log is None, "passes do not nest"
        log: list[tuple[Any, ...]] = []
        self._log = log
        self.charges = {}
        try:
            yield log
        finally:
            self._log = None

    def set_position(self, pos0: int) -> None:
        """Position of row 0 of the pass that follows."""
        self.poke(self.pos, np.array([pos0], np.int32))

    def upload(self, target: DeviceArray, host: np.ndarray) -> None:
        assert host.nbytes == target.nbytes and host.dtype == target.dtype, (host.shape, target)
        assert self._log is None, "an upload cannot be replayed"
        if target.nbytes % 4 == 0 and 0 < target.nbytes <= 4 * POKED:
            self.poke(target, host)
        elif target.nbytes:
            self.device.upload(target.address, host)
        self.wrote(target)

    def poke(self, target: DeviceArray, host: np.ndarray) -> None:
        """Write a few words by a launch that carries them: in stream order, without a copy."""
        words = host.reshape(-1).view(np.uint32)
        args = [int(w) for w in words] + [0] * (POKED - len(words))
        values = (target.address, len(words), *args)
        self.device.launch(poke_words, (1, 1, 1), values)

    def download(self, source: DeviceArray, host: np.ndarray) -> None:
        assert host.nbytes == source.nbytes
        if source.nbytes:
            self.device.download(host, source.address)

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        assert target.nbytes == source.nbytes, (target, source)
        if target.nbytes:
            self.device.copy(target.address, source.address, target.nbytes)
            if self._log is not None:
                self._log.append(("copy", target.address, source.address, target.nbytes))
            self.wrote(target)

    def fill(self, target: DeviceArray, byte: int) -> None:
        """Set every byte of an array."""
        if target.nbytes:
            self.device.fill(target.address, byte, target.nbytes)
            if self._log is not None:
                self._log.append(("fill", target.address, byte, target.nbytes))
            self.wrote(target)

    def launch(self, kernel: Kernel, grid: int | Sequence[int], *args: Any) -> None:
        """Launch a kernel; arrays are passed by address, None as a null pointer."""
        dims = (grid,) if isinstance(grid, int) else tuple(grid)
        dims += (1,) * (3 - len(dims))
        if 0 in dims:
            return
        assert len(args) == len(kernel.args), (kernel.name, len(args), len(kernel.args))
        values = tuple(
            a.address if isinstance(a, DeviceArray) else 0 if a is None else a for a in args
        )
        self.device.launch(kernel, dims, values)  # type: ignore[arg-type]
        if self._log is not None:
            self._log.append(("launch", kernel, dims, values))

    def charge(self, kernel: Kernel, n_bytes: int) -> None:
        """Note that the launch just made reads this many bytes of weights."""
        self.charges[kernel.name] = self.charges.get(kernel.name, 0) + n_bytes

    # Companions: other representations of an array's present values (quantised rows, say).

    def forget(self) -> None:
        """Forget all companions: between passes nothing is known, since passes are replayed."""
        self._companions.clear()

    def wrote(self, *arrays: DeviceArray) -> None:
        """Forget the companions of arrays whose values have changed."""
        for array in arrays:
            self._companions.pop(array.address, None)

    def companion(self, array: DeviceArray, kind: str) -> Any:
        """What `keep` stored for the array's present values, or None."""
        entry = self._companions.get(array.address, {}).get(kind)
        return entry[1] if entry is not None and entry[0] == array.shape else None

    def keep(self, array: DeviceArray, kind: str, value: Any) -> None:
        self._companions.setdefault(array.address, {})[kind] = (array.shape, value)
