"""CUDA kernel set: numba.cuda kernels launched through the driver, on one NVIDIA GPU.

Importing this package imports nothing heavy; `open_ops` needs the `cuda` extra and a driver.
`compile` builds the kernels without either, `natsim` runs them on this processor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.ops.cuda.ops import CudaOps


def device_facts(device: int = 0) -> dict[str, Any]:
    """What the driver says of a device, without opening a model.

    Raises
    ------
    BackendError
        If there is no driver or device that can be used.
    """
    from pathlib import Path

    from engine.ops.cuda.device.driver import open_device
    from engine.options import EngineOptions

    return open_device(EngineOptions(Path(), backend="cuda", device=device)).facts()


def open_ops(options: Any, residency: Any = None) -> CudaOps:
    """The kernel set on the device that the options name.

    Parameters
    ----------
    options : EngineOptions
    residency : object, optional
        See `CudaOps`.

    Raises
    ------
    BackendError
        If there is no driver, device or compiled kernels that can be used; says which.
    """
    from engine.ops.cuda.device.context import Context
    from engine.ops.cuda.device.driver import open_device
    from engine.ops.cuda.ops import CudaOps

    return CudaOps(Context(open_device(options)), options.launch, residency)
