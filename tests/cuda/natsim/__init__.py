"""Kernels run natively from the IR that numba-cuda makes of them: tests without a GPU.

What it shows: the arithmetic of a kernel as typed by numba, without contraction, bit by bit where
no libm and no floating-point mma is involved; threads that miss a barrier or a collective, or wait
at different ones; parts of a warp at a collective; unaligned vector accesses; writes just outside
allocations and between shared arrays; uninitialised memory, which is poison; copies that were not
waited for; and, run with lanes, warps and blocks in the opposite order, reliance on an order.

What it cannot show: reads far outside allocations (the process ends) and near ones whose poison
does not reach a result; races that neither order meets; memory ordering between blocks; the last
bits of device math (the C library's are used) and of a tensor core's floating-point sums; blocks
that wait for each other, since they run one after another; time. Fragment layouts are the PTX
manual's. Fibers switch in a few instructions on x86-64, through the C library elsewhere.
"""

from __future__ import annotations

from tests.cuda.natsim.device import NatsimDevice, SimulationError

__all__ = ["NatsimDevice", "SimulationError"]
