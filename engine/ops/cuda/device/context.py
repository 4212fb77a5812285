"""What ops run on: one device, its memory, its stream of launches, and who wrote what.

Ops are plain functions that take a `Context` first. They launch kernels through `launch`, take
working memory through `scratch`, and say through `wrote` which arrays they changed, so that a
quantised companion of an array is used only while it is true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numba import cuda
from numba.cuda import types

from engine.ops.cuda.build.kernel import U32, U32P, Kernel, device, kernel
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.record import Entry, Extents, effects


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

    def program(self, log: Sequence[Entry], mode: str) -> Any:
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


@kernel(U32P, U32, types.UniTuple(U32, POKED), threads=32, writes=("target",))
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

    __slots__ = ("_device", "_extents", "address")

    def __init__(self, device: Device, extents: Extents, n_bytes: int) -> None:
        n_bytes = max(n_bytes, 1)
        self.address = 0  # until there is memory: `__del__` runs after a refusal, too
        self._device, self._extents = device, extents
        self.address = device.alloc(n_bytes)
        extents.add(self.address, n_bytes)

    def __del__(self) -> None:
        if self.address:
            self._extents.remove(self.address)
            self._device.free(self.address)


@dataclass(frozen=True, slots=True)
class Deferred:
    """A launch that the next one may do on the way.

    Parameters
    ----------
    key : int
        Address of the array that it changes.
    arrays : tuple of DeviceArray
        Everything that it reads and writes.
    launch : callable
        Makes it.
    """

    key: int
    arrays: tuple[DeviceArray, ...]
    launch: Callable[[], None]


class Recording(list[Entry]):
    """Entries of a pass in order.

    Attributes
    ----------
    held : dict of int to DeviceArray
        Working memory that they point into, kept alive with them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, DeviceArray] = {}


class Context:
    """One device and the state that ops share on it.

    Parameters
    ----------
    device : Device
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._extents = Extents()
        # Position of the first row of the pass: device memory, so that a recorded pass can be
        # replayed at another position.
        self.pos = self.zeros((1,), np.int32)
        self._scratch: dict[str, DeviceArray] = {}
        self._companions: dict[int, dict[str, Any]] = {}
        self._log: Recording | None = None
        self._deferred: Deferred | None = None
        # No row of the present pass is at this position or beyond; None: nothing is known. What a
        # pass launches may depend on it, so that a recording holds for passes that end before it.
        self.horizon: int | None = None

    def empty(self, shape: tuple[int, ...], dtype: Any = np.float32) -> DeviceArray:
        """Uninitialised device memory."""
        n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        owner = _Allocation(self.device, self._extents, n_bytes)
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

        Two uses of one name must not be alive at the same time, and none outlives its pass.
        Memory that was outgrown lives on as long as a recorded pass that works in it, so that no
        pass is ever recorded twice because another one wanted more.
        """
        n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        held = self._scratch.get(name)
        if held is None or held.nbytes < n_bytes:
            held = self.empty((max(n_bytes, 256),), np.uint8)
            self._scratch[name] = held
        if self._log is not None:
            self._log.held[held.address] = held
        return DeviceArray(self, held.address, shape, dtype, held)

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        """Run what follows and list it."""
        assert self._log is None, "passes do not nest"
        log = Recording()
        self._log = log
        try:
            yield log
            self.settle()
        finally:
            self._log = None
            self._deferred = None

    def defer(
        self, array: DeviceArray, others: Sequence[DeviceArray], launch: Callable[[], None]
    ) -> None:
        """Put off a launch that changes `array` from `others`, until something needs any of them.

        A launch that can do the same work first asks `take` for it; before any other that touches
        one of these arrays it is made.
        """
        self.settle()
        self._deferred = Deferred(array.address, (array, *others), launch)

    def take(self, array: DeviceArray) -> tuple[DeviceArray, ...] | None:
        """The others of a launch that was put off for this array; the caller does its work."""
        deferred = self._deferred
        if deferred is None or deferred.key != array.address:
            return None
        self._deferred = None
        return deferred.arrays[1:]

    def settle(self) -> None:
        """Make the launch that was put off, if there is one."""
        deferred, self._deferred = self._deferred, None
        if deferred is not None:
            deferred.launch()

    def _settle_for(self, addresses: Sequence[Any]) -> None:
        """Make the launch that was put off if one of these addresses is in its arrays."""
        deferred = self._deferred
        if deferred is not None and any(
            a.address <= address < a.address + a.nbytes
            for a in deferred.arrays
            for address in addresses
        ):
            self.settle()

    def set_position(self, pos0: int) -> None:
        """Position of row 0 of the pass that follows."""
        self.poke(self.pos, np.array([pos0], np.int32))

    def upload(self, target: DeviceArray, host: np.ndarray) -> None:
        assert host.nbytes == target.nbytes and host.dtype == target.dtype, (host.shape, target)
        assert self._log is None, "an upload cannot be replayed"
        self.settle()
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
        self.settle()
        if source.nbytes:
            self.device.download(host, source.address)

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        assert target.nbytes == source.nbytes, (target, source)
        self.settle()
        if target.nbytes:
            self.device.copy(target.address, source.address, target.nbytes)
            if self._log is not None:
                self._note("copy", (target.address, source.address, target.nbytes), source, target)
            self.wrote(target)

    def fill(self, target: DeviceArray, byte: int) -> None:
        """Set every byte of an array."""
        self.settle()
        if target.nbytes:
            self.device.fill(target.address, byte, target.nbytes)
            if self._log is not None:
                self._note("fill", (target.address, byte, target.nbytes), None, target)
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
        if self._deferred is not None:
            self._settle_for([v for v in values if isinstance(v, int)])
        self.device.launch(kernel, dims, values)  # type: ignore[arg-type]
        if self._log is not None:
            reads, writes = effects(kernel, values, self._extents)
            self._log.append(Entry("launch", values, kernel, dims, reads, writes))  # type: ignore[arg-type]

    def _note(
        self, kind: str, values: tuple[int, ...], source: DeviceArray | None, target: DeviceArray
    ) -> None:
        assert self._log is not None
        touched = [
            frozenset() if a is None else frozenset([self._extents.holding(a.address) or a.address])
            for a in (source, target)
        ]
        self._log.append(Entry(kind, values, reads=touched[0] - touched[1], writes=touched[1]))

    def charge(self, kernel: Kernel, n_bytes: int) -> None:
        """Note that the last launch of a kernel reads this many bytes of weights."""
        if self._log is not None:
            made = next(entry for entry in reversed(self._log) if entry.kernel is kernel)
            made.weight_bytes += n_bytes

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
