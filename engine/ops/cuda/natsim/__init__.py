"""Kernels run natively from the IR that numba-cuda makes of them: tests without a GPU."""

from __future__ import annotations

from engine.ops.cuda.natsim.device import NatsimDevice, SimulationError

__all__ = ["NatsimDevice", "SimulationError"]
