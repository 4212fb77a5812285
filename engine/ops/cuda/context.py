"""What ops run on: one device, its memory, its stream of launches, and who wrote what.

Ops are plain functions that take a `Context` first. They launch kernels through `launch`, take
working memory through `scratch`, and say through `wrote` which arrays they changed, so that a
quantised companion of an array is used only while it is true.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from engine.ops.cuda.array import DeviceArray
from engine.ops.cuda.kernel import Kernel


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
            self.on_growth()
        return DeviceArray(self, held.address, shape, dtype, held)

    def on_growth(self) -> None:
        """Called when working memory moved: recorded passes that point to the old are void."""

    def upload(self, target: DeviceArray, host: np.ndarray) -> None:
        assert host.nbytes == target.nbytes and host.dtype == target.dtype, (host.shape, target)
        if target.nbytes:
            self.device.upload(target.address, host)
            self.wrote(target)

    def download(self, source: DeviceArray, host: np.ndarray) -> None:
        assert host.nbytes == source.nbytes
        if source.nbytes:
            self.device.download(host, source.address)

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        assert target.nbytes == source.nbytes, (target, source)
        if target.nbytes:
            self.device.copy(target.address, source.address, target.nbytes)
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

    # Companions: other representations of an array's present values (quantised rows, say).

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
