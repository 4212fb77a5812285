"""Which experts a token uses, and their weights: one warp per token, eight experts a lane."""

from __future__ import annotations

import math

from numba import cuda

from engine.ops.cuda.build.kernel import F32, F32P, I32P, U32, device, kernel
from engine.ops.cuda.build.ptx import (
    add_rn,
    bits_f32,
    f32_bits,
    mul_rn,
    redux_max,
    redux_min,
    shfl_f32,
    sub_rn,
)
from engine.ops.cuda.build.scalar import softplus
from engine.ops.cuda.build.types import f32, i32, u32
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.sizes import MAX_EXPERTS, MAX_USED

_PER_LANE = MAX_EXPERTS // 32
_SUM_FLOOR = f32(6.103515625e-5)  # float16's least normal
_TAKEN = i32(-0x80000000)  # key of no expert, and of one already chosen
_LOWEST = i32(-0x7FFFFFFF)
_NOBODY = i32(0x7FFFFFFF)
_MAGNITUDE = i32(0x7FFFFFFF)


@device
def _affinity(logit):
    return math.sqrt(softplus(logit))


@device
def _key(value):
    """An int32 that orders as the float32 does; its own inverse but for the lowest value."""
    bits = f32_bits(value)
    return i32(bits ^ i32(i32(bits >> i32(31)) & _MAGNITUDE))


@device
def _weigh(weights, at, lane, p, used, scale):
    """Lane k < used holds slot k's p: p over the sum in slot order, times scale."""
    total = f32(0)
    for k in range(used):
        total = add_rn(total, shfl_f32(p, i32(k)))
    total = _SUM_FLOOR if total < _SUM_FLOOR else total
    if lane < used:
        weights[at] = mul_rn(p / total, scale)


@kernel(
    I32P,
    F32P,
    F32P,
    F32P,
    F32P,
    U32,
    U32,
    U32,
    U32,
    F32,
    threads=32,
    writes=("ids", "weights", "margin"),
)
def router_top(ids, weights, margin, logits, bias, n_expert, used, biased, edged, scale):
    """Grid (tokens): `used` rounds of taking the greatest key, equal ones by the lower id."""
    lane = u32(cuda.threadIdx.x)
    row = u32(u32(cuda.blockIdx.x) * n_expert)

    # A lane's experts as integers that order as their affinities do, with the bias.
    keys = cuda.local.array(_PER_LANE, i32)
    for j in range(_PER_LANE):
        e = u32(lane + u32(32 * j))
        keys[j] = _TAKEN
        if e < n_expert:
            value = _affinity(logits[u32(row + e)])
            if biased:
                value = add_rn(value, bias[e])
            keys[j] = max(_key(value), _LOWEST)

    # The greatest key of the warp, `used` times; once more for the margin, without taking it.
    mine, last, following = _NOBODY, _TAKEN, _TAKEN
    for k in range(used + edged):
        best = keys[0]
        for j in range(1, _PER_LANE):
            best = max(best, keys[j])
        best = redux_max(best)
        if u32(k) == used:
            following = best
        else:
            found = _NOBODY
            for j in range(_PER_LANE):
                e = i32(i32(lane) + i32(32 * j))
                found = min(found, e) if keys[j] == best else found
            found = redux_min(found)
            for j in range(_PER_LANE):
                e = i32(i32(lane) + i32(32 * j))
                keys[j] = _TAKEN if e == found else keys[j]
            mine = found if u32(k) == lane else mine
            last = best

    # Ids, weights (of affinities without bias), and the margin between the last and the next.
    at = u32(u32(cuda.blockIdx.x) * used + lane)
    p = f32(0)
    if lane < used:
        ids[at] = mine
        p = _affinity(logits[u32(row + u32(mine))])
    _weigh(weights, at, lane, p, used, scale)
    if edged and lane == u32(0):
        edge = sub_rn(bits_f32(_key(bits_f32(last))), bits_f32(_key(bits_f32(following))))
        margin[cuda.blockIdx.x] = f32(math.inf) if used == n_expert else edge


@kernel(I32P, F32P, F32P, I32P, I32P, U32, U32, F32, threads=32, writes=("ids", "weights"))
def router_table(ids, weights, logits, table, tokens, n_expert, used, scale):
    """Grid (tokens): the experts that the table lists for the token."""
    lane = u32(cuda.threadIdx.x)
    at = u32(u32(cuda.blockIdx.x) * used + lane)
    p = f32(0)
    if lane < used:
        expert = table[u32(u32(tokens[cuda.blockIdx.x]) * used + lane)]
        ids[at] = expert
        p = _affinity(logits[u32(u32(cuda.blockIdx.x) * n_expert + u32(expert))])
    _weigh(weights, at, lane, p, used, scale)


def _sizes(ids: DeviceArray, weights: DeviceArray, logits: DeviceArray) -> tuple[int, int, int]:
    n, n_expert = logits.shape
    used = ids.shape[1]
    assert ids.shape == weights.shape == (n, used), (ids, weights, logits)
    assert used <= min(MAX_USED, n_expert) and n_expert <= MAX_EXPERTS, (used, n_expert)
    return n, n_expert, used


def router_select(
    ctx: Context,
    ids: DeviceArray,
    weights: DeviceArray,
    logits: DeviceArray,
    bias: DeviceArray | None,
    scale: float,
    margin: DeviceArray | None,
) -> None:
    """Take the experts with the greatest p + bias, p = sqrt(softplus(logit)).

    Parameters
    ----------
    ids : int32 DeviceArray of shape (n, n_expert_used), overwritten
        By descending p + bias, equal ones by ascending id. Up to 8 of up to 256 experts.
    weights : float32 DeviceArray of shape (n, n_expert_used), overwritten
        p of the chosen over their sum, times scale.
    logits : float32 DeviceArray of shape (n, n_expert)
    bias : float32 DeviceArray of shape (n_expert,), or None
    scale : float
    margin : float32 DeviceArray of shape (n,), overwritten, or None
        p + bias of the last expert kept minus the first dropped; infinity when none is dropped.
    """
    n, n_expert, used = _sizes(ids, weights, logits)
    biased, edged = int(bias is not None), int(margin is not None)
    ctx.launch(
        router_top, n, ids, weights, margin, logits, bias, n_expert, used, biased, edged, scale
    )
    ctx.wrote(ids, weights)
    if margin is not None:
        ctx.wrote(margin)


def router_hash(
    ctx: Context,
    ids: DeviceArray,
    weights: DeviceArray,
    logits: DeviceArray,
    table: DeviceArray,
    tokens: DeviceArray,
    scale: float,
) -> None:
    """Look the experts up by token id; weights as in `router_select`.

    Parameters
    ----------
    ids : int32 DeviceArray of shape (n, n_expert_used), overwritten
    weights : float32 DeviceArray of shape (n, n_expert_used), overwritten
    logits : float32 DeviceArray of shape (n, n_expert)
    table : int32 DeviceArray of shape (n_vocab, n_expert_used)
    tokens : int32 DeviceArray of shape (n,)
    scale : float
    """
    n, n_expert, used = _sizes(ids, weights, logits)
    assert table.shape[1] == used and tokens.shape == (n,), (table, tokens)
    ctx.launch(router_table, n, ids, weights, logits, table, tokens, n_expert, used, scale)
    ctx.wrote(ids, weights)
