"""The first maximum of each row of logits, whether all of a row's values are finite, and reports.

A drafter's walk chooses a token, looks up what follows it and chooses the next, all on the device;
its report holds what the host asks of all drafts, so that it waits once.
"""

from __future__ import annotations

import math

import numpy as np
from numba import cuda

from engine.errors import NonFiniteError
from engine.ops.cuda.build.kernel import F32P, I32P, U32, device, kernel
from engine.ops.cuda.build.ptx import fma_rn, i2f, redux_max, shfl_xor_f32, shfl_xor_i32
from engine.ops.cuda.build.reduce import block_sum
from engine.ops.cuda.build.types import f32, i32, u32
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context

THREADS = 256
PIECE = 2048  # values of a block of the first pass
INFINITY = f32(math.inf)
NOBODY = i32(0x7FFFFFFF)  # id of no candidate: it loses every tie


@device
def _better(value, at, other, other_at):
    """Whether the other candidate wins: it is larger, or as large with a lower id."""
    return other > value or (other == value and other_at < at)


@device
def _is_banned(at, banned, n_banned):
    found = False
    for k in range(n_banned):
        found = found or banned[k] == at
    return found


@device
def _lanes(value, at, bad, values, ids, bads, n_warps):
    """Winner of a block, in thread 0; `bad` in every thread of warp 0."""
    for step in range(5):
        other = shfl_xor_f32(value, 16 >> step)
        other_at = shfl_xor_i32(at, 16 >> step)
        if _better(value, at, other, other_at):
            value, at = other, other_at
    bad = redux_max(bad)
    t = u32(cuda.threadIdx.x)
    if t & u32(31) == u32(0):
        values[t >> u32(5)] = value
        ids[t >> u32(5)] = at
        bads[t >> u32(5)] = bad
    cuda.syncthreads()
    for w in range(1, n_warps):
        if _better(value, at, values[w], ids[w]):
            value, at = values[w], ids[w]
        bad = i32(bad | bads[w])
    return value, at, bad


@kernel(
    F32P,
    I32P,
    I32P,
    F32P,
    I32P,
    U32,
    U32,
    threads=THREADS,
    writes=("part_value", "part_id", "part_bad"),
)
def argmax_pieces(part_value, part_id, part_bad, logits, banned, n_banned, d):
    """Grid (pieces, rows): best candidate of PIECE values of a row."""
    values = cuda.shared.array(32, f32)
    ids = cuda.shared.array(32, i32)
    bads = cuda.shared.array(32, i32)
    row = u32(u32(cuda.blockIdx.y) * d)
    begin = i32(cuda.blockIdx.x * PIECE)
    stop = i32(min(begin + PIECE, i32(d)))
    # A thread's best, then the block's.
    value, at, bad = -INFINITY, NOBODY, i32(0)
    for j in range(begin + cuda.threadIdx.x, stop, THREADS):
        v = logits[u32(row + u32(j))]
        if not abs(v) < INFINITY:
            bad = i32(1)
        elif v > value and not _is_banned(i32(j), banned, n_banned):
            value, at = v, i32(j)
    value, at, bad = _lanes(value, at, bad, values, ids, bads, THREADS // 32)
    if cuda.threadIdx.x == 0:
        k = u32(cuda.blockIdx.y * cuda.gridDim.x + cuda.blockIdx.x)
        part_value[k] = value
        part_id[k] = at
        part_bad[k] = bad


@kernel(*(F32P,) * 4, I32P, I32P, U32, U32, threads=THREADS, writes=("out",))
def draft_reports(out, hidden, rows, weight, ids, bad, d, rank):
    """One block per draft: the logit of its confidence, and its id."""
    parts = cuda.shared.array(32, f32)
    slot, t = u32(cuda.blockIdx.x), u32(cuda.threadIdx.x)
    total = f32(0)
    for j in range(t, d, THREADS):
        total = fma_rn(hidden[u32(slot * d + u32(j))], weight[u32(j)], total)
    for j in range(t, rank, THREADS):
        total = fma_rn(rows[u32(slot * rank + u32(j))], weight[u32(d + u32(j))], total)
    total = block_sum(total, parts, THREADS // 32)
    if t == u32(0):
        at = u32(slot * u32(2))
        out[at] = total
        out[u32(at + u32(1))] = f32(math.nan) if bad[slot] else i2f(ids[slot])


@kernel(I32P, I32P, F32P, I32P, I32P, U32, threads=THREADS, writes=("out_ids", "out_flags"))
def argmax_join(out_ids, out_flags, part_value, part_id, part_bad, pieces):
    """One block per row: best of the pieces."""
    values = cuda.shared.array(32, f32)
    ids = cuda.shared.array(32, i32)
    bads = cuda.shared.array(32, i32)
    row = u32(u32(cuda.blockIdx.x) * pieces)
    value, at, bad = -INFINITY, NOBODY, i32(0)
    for k in range(u32(cuda.threadIdx.x), pieces, THREADS):
        i = u32(row + k)
        if _better(value, at, part_value[i], part_id[i]):
            value, at = part_value[i], part_id[i]
        bad = i32(bad | part_bad[i])
    value, at, bad = _lanes(value, at, bad, values, ids, bads, THREADS // 32)
    if cuda.threadIdx.x == 0:
        # An id of the vocabulary in any case: a row may be looked up by it before it is judged.
        out_ids[cuda.blockIdx.x] = at if at != NOBODY else i32(0)
        out_flags[cuda.blockIdx.x] = bad


def argmax_rows(
    ctx: Context,
    ids: DeviceArray,
    bad: DeviceArray,
    rows: DeviceArray,
    banned: DeviceArray | None = None,
) -> None:
    """First maximum of each row, banned ids left out.

    Parameters
    ----------
    ids : int32 DeviceArray of shape (n,), overwritten
    bad : int32 DeviceArray of shape (n,), overwritten
        1 where any value of the row is NaN or infinite; the id then means nothing, and is one of
        the vocabulary all the same.
    rows : float32 DeviceArray of shape (n, n_vocab)
    banned : int32 DeviceArray of shape (k,), optional
        Fewer than n_vocab ids.
    """
    n, d = rows.shape
    n_banned = 0 if banned is None else len(banned)
    assert ids.shape == bad.shape == (n,) and n_banned < d, (ids, bad, rows)
    pieces = -(-d // PIECE)
    value = ctx.scratch("argmax value", (n, pieces))
    part_ids = ctx.scratch("argmax id", (n, pieces), np.int32)
    part_bad = ctx.scratch("argmax bad", (n, pieces), np.int32)
    ctx.launch(argmax_pieces, (pieces, n), value, part_ids, part_bad, rows, banned, n_banned, d)
    ctx.launch(argmax_join, n, ids, bad, value, part_ids, part_bad, pieces)
    ctx.wrote(ids, bad)


def draft_report(
    ctx: Context,
    out: DeviceArray,
    hidden: DeviceArray,
    rows: DeviceArray,
    weight: DeviceArray,
    ids: DeviceArray,
    bad: DeviceArray,
) -> None:
    """Logits of confidences beside ids, in one array for the host.

    Parameters
    ----------
    out : float32 DeviceArray of shape (k, 2), overwritten
    hidden : float32 DeviceArray of shape (k, n_embd)
    rows : float32 DeviceArray of shape (k, rank)
    weight : float32 DeviceArray of shape (n_embd + rank,)
    ids, bad : int32 DeviceArrays of shape (k,)
        As `argmax_rows` gives them; below 2**24, which float32 holds exactly.
    """
    (k, d), rank = hidden.shape, rows.shape[1]
    assert out.shape == (k, 2) and len(rows) == k and weight.shape == (d + rank,), (out, rows)
    assert ids.shape == bad.shape == (k,), (ids, bad)
    ctx.launch(draft_reports, k, out, hidden, rows, weight, ids, bad, d, rank)
    ctx.wrote(out)


def first_maxima(
    ctx: Context, logits: DeviceArray, banned: DeviceArray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """First maximum of each row on the host; waits for the device.

    Returns
    -------
    ids : int32 array of shape (n,)
    finite : bool array of shape (n,)
    """
    n = len(logits)
    out = ctx.scratch("argmax out", (2, n), np.int32)
    argmax_rows(ctx, out[0], out[1], logits, banned)
    ids, flags = np.asarray(out)
    return ids, flags == 0


def argmax(ctx: Context, logits: DeviceArray) -> int:
    """Index of the first maximum of a float32 vector.

    Raises
    ------
    NonFiniteError
        If any value is NaN or infinite.
    """
    ids, finite = first_maxima(ctx, logits.reshape(1, -1))
    if not finite[0]:
        values = np.asarray(logits).reshape(-1)
        at = int(np.argmin(np.isfinite(values)))
        raise NonFiniteError(
            f"logits: expected finite values, found {float(values[at])!r} at token {at}"
        )
    return int(ids[0])
