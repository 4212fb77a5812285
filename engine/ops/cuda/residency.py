"""Where a tensor's bytes are for the device: copied to it, or read from the mapped file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from engine.weights.tensor import Tensor


@dataclass(frozen=True, slots=True)
class Placement:
    """The answer for one tensor.

    Parameters
    ----------
    kind : {'device', 'mapped'}
        'device': the caller uploads the raw bytes (`Device.upload` stages and counts them) and
        keeps them in its own layout. 'mapped': nothing is copied; kernels read the file's bytes.
    address : int
        Device address of the tensor's first byte when mapped, else 0.
    layout : {'raw'}
        How the bytes at `address` are arranged: as in the file.
    """

    kind: str
    address: int = 0
    layout: str = "raw"


class Residency(Protocol):
    """What decides; `AllOnDevice` or `MappedResidency`."""

    def place(self, tensor: Tensor) -> Placement: ...

    def facts(self) -> dict[str, Any]: ...


class AllOnDevice:
    """Every tensor is copied; what a device without a mapping to offer does."""

    def place(self, tensor: Tensor) -> Placement:
        return Placement("device")

    def facts(self) -> dict[str, Any]:
        return {"residency": "device"}
