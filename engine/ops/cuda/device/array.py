"""Arrays in device memory: an address, a shape and a dtype; always contiguous, rows sliceable."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Owner(Protocol):
    """What an array asks of the device's context: copies to, from and within its memory."""

    def download(self, array: DeviceArray, out: np.ndarray) -> None: ...
    def upload(self, array: DeviceArray, values: np.ndarray) -> None: ...
    def copy(self, out: DeviceArray, source: DeviceArray) -> None: ...


class DeviceArray:
    """A contiguous array on a device.

    Reading it as a host array (`numpy.asarray`) waits for the device and copies; slices along
    the first axis and reshapes share memory.

    Parameters
    ----------
    context : Owner
        Of the device's memory.
    address : int
        Device address of the first element.
    shape : tuple of int
    dtype : numpy dtype
    owner : object, optional
        Kept alive as long as this array: the allocation, or the array that this is a view of.
    """

    __slots__ = ("address", "context", "dtype", "owner", "shape")

    def __init__(
        self, context: Owner, address: int, shape: tuple[int, ...], dtype: Any, owner: Any = None
    ) -> None:
        self.context = context
        self.address = address
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        self.owner = owner

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"DeviceArray({self.shape}, {self.dtype}, at {self.address:#x})"

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def reshape(self, *shape: Any) -> DeviceArray:
        """View of another shape with as many elements; one dimension may be -1."""
        dims = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        if -1 in dims:
            known = -int(np.prod(dims, dtype=np.int64))
            dims = tuple(self.size // known if n == -1 else n for n in dims)
        if int(np.prod(dims, dtype=np.int64)) != self.size:
            raise ValueError(f"reshape: expected {self.size} elements, found {dims}")
        return DeviceArray(self.context, self.address, dims, self.dtype, self)

    def __getitem__(self, key: Any) -> Any:
        """A slice of rows is a view; rows by integer array come back as a host array."""
        if isinstance(key, slice):
            start, stop, step = key.indices(self.shape[0])
            if step != 1:
                raise ValueError(f"slice: expected step 1, found {step}")
            row = self.nbytes // max(self.shape[0], 1)
            shape = (max(stop - start, 0), *self.shape[1:])
            return DeviceArray(self.context, self.address + start * row, shape, self.dtype, self)
        if isinstance(key, (int, np.integer)):
            at = int(key) % self.shape[0]
            return self[at : at + 1].reshape(self.shape[1:])
        return np.asarray(self)[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        out = np.empty(self.shape, self.dtype)
        self.context.download(self, out)
        return out if dtype is None else out.astype(dtype, copy=False)

    def __setitem__(self, key: Any, values: Any) -> None:
        """Overwrite a slice of rows (or everything, `...`) with host or device values."""
        target = self if key is Ellipsis else self[key]
        if isinstance(values, DeviceArray):
            self.context.copy(target, values)
            return
        host = np.broadcast_to(np.asarray(values, self.dtype), target.shape)
        self.context.upload(target, np.ascontiguousarray(host))
