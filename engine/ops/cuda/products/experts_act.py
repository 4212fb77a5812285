"""The int8 rows that both down products of a layer multiply, written by one launch.

They are the routed pairs' middle rows and the shared expert's SwiGLU; op by op that would be three
launches of a few microseconds each.
"""

from __future__ import annotations

from numba import cuda

from engine.ops.cuda.build.kernel import F32, F32P, I8P, U32, Kernel, kernel
from engine.ops.cuda.build.types import f32, u32
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.products.act import lane_quantiser, quantised_room
from engine.ops.cuda.products.experts_kernels import gated
from engine.ops.cuda.products.generate import THREADS
from engine.ops.cuda.products.pack import INT8, Weight
from engine.ops.cuda.sizes import SIZES, padded

_INT8 = INT8[32] + INT8[256]


def _forms(routed: int, shared: int) -> Kernel:
    routed_lane, shared_lane = lane_quantiser(routed), lane_quantiser(shared)

    @kernel(
        I8P, F32P, F32P, U32, U32, U32, I8P, F32P, F32P, F32P, U32, U32, F32,
        threads=THREADS, name=f"moe_forms_{routed}_{shared}",
        writes=("codes", "scales", "shared_codes", "shared_scales"),
    )  # fmt: skip
    def moe_forms(
        codes, scales, middle, cols, n_pad, m,
        shared_codes, shared_scales, gate, up, shared_cols, shared_pad, limit,
    ):  # fmt: skip
        """Grid (pieces of 2048 columns, m pairs and then n rows): a lane quantises 8 values."""
        row = u32(cuda.blockIdx.y)
        at = u32(u32(cuda.blockIdx.x) * u32(THREADS) + u32(cuda.threadIdx.x))
        k = u32(at * u32(8))
        values = cuda.local.array(8, f32)
        for i in range(8):
            values[i] = f32(0)
        if row < m:
            # A routed pair's row.
            if k < cols:
                for i in range(8):
                    values[i] = middle[u32(u32(row * cols + k) + u32(i))]
            routed_lane(codes, scales, values, row, k, cols, n_pad)
        else:
            # The shared expert's row.
            row = u32(row - m)
            if k < shared_cols:
                for i in range(8):
                    source = u32(u32(row * shared_cols + k) + u32(i))
                    values[i] = gated(gate[source], up[source], limit)
            shared_lane(shared_codes, shared_scales, values, row, k, shared_cols, shared_pad)

    return moe_forms


_FORMS = {(a, b): _forms(a, b) for a in (32, 256) for b in (32, 256)}


def middle_forms(
    ctx: Context,
    middle: DeviceArray,
    down: Weight,
    gate: DeviceArray,
    up: DeviceArray,
    shared_down: Weight,
    limit: float,
) -> bool:
    """Keep the int8 forms of `middle` and of swiglu(gate, up), for which `gate` then stands.

    Parameters
    ----------
    middle : float32 DeviceArray of shape (pairs, n_ff)
    gate, up : float32 DeviceArrays of shape (n, n_ff of the shared expert)
    down, shared_down : Weight
        What the two are multiplied with.
    limit : float
        The shared expert's clamp.

    Returns
    -------
    bool
        False: one of the products takes another form; nothing was done.
    """
    if down.format not in _INT8 or shared_down.format not in _INT8:
        return False
    m, cols = middle.shape
    n, shared_cols = gate.shape
    blocks = SIZES[down.format].block, SIZES[shared_down.format].block
    kind, room = quantised_room(ctx, middle, blocks[0], padded(m))
    shared_kind, shared_room = quantised_room(ctx, gate, blocks[1], padded(n))
    ctx.launch(
        _FORMS[blocks], (-(-max(cols, shared_cols) // (8 * THREADS)), m + n),
        room.codes, room.scales, middle, cols, room.n_pad, m,
        shared_room.codes, shared_room.scales, gate, up, shared_cols, shared_room.n_pad, limit,
    )  # fmt: skip
    ctx.keep(middle, kind, room)
    ctx.wrote(gate)
    ctx.keep(gate, shared_kind, shared_room)
    return True
