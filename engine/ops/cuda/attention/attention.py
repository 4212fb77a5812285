"""Attention over the raw window and compressed rows; one row is both key and value.

Many rows of a call: a block walks over a query's whole list. Few rows: every chunk of 32 entries
has a block of its own, and a second launch joins the chunks in the same order, to the same bits.
Blocks are launched for the rows that the pass can see, however many the session has room for.
"""

from __future__ import annotations

import numpy as np

from engine.ops.cuda.attention import attention_f16, attention_f32
from engine.ops.cuda.attention.attention_parts import JOIN, JOIN_THREADS, attention_join
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.sizes import CHUNK, MAX_DIM, SPLIT_BYTES, SPLIT_ROWS


def attend(
    ctx: Context,
    out: DeviceArray,
    q: DeviceArray,
    ring: DeviceArray,
    rows: DeviceArray | None,
    sel: DeviceArray | None,
    n_sel: DeviceArray | None,
    sinks: DeviceArray,
    pos0: DeviceArray,
    n_swa: int,
    ratio: int,
    turn: tuple[DeviceArray, DeviceArray] | None = None,
    behind: int = 0,
) -> None:
    """Softmax attention of every head over its visible rows, with one sink logit per head.

    A query at position p sees the raw rows of the last min(n_swa, p + 1) positions, oldest first,
    then compressed rows in ascending order. s = q.k / sqrt(head_dim);
    out = sum exp(s - m) k / (sum exp(s - m) + exp(sink - m)) with m the greatest of all s and
    the sink.

    Parameters
    ----------
    out : float32 DeviceArray of shape (n, n_head, head_dim), overwritten
        Not q.
    q : float32 DeviceArray of shape (n, n_head, head_dim)
        head_dim up to 512, a multiple of 8. Over float16 rows magnitudes stay below 65504.
    ring : DeviceArray of shape (cap, head_dim), float16 or float32
        Raw rows, position % cap; holds every row that the call's queries see.
    rows : DeviceArray of shape (comp_cap, head_dim) of the ring's dtype, or None
        Compressed rows; None when ratio is 0.
    sel : int32 DeviceArray of shape (n, top_k), or None
        Compressed rows to see, ascending; None means all (p + 1) // ratio of them.
    n_sel : int32 DeviceArray of shape (n,), or None
        How many of sel count.
    sinks : float32 DeviceArray of shape (n_head,)
    pos0 : int32 DeviceArray of shape (1,)
        Position of row 0, in device memory.
    n_swa : int
    ratio : int
        0: raw rows only.
    turn : (cos, sin), optional
        float32 DeviceArrays of shape (n_positions, n_rot // 2): also turn the outputs' tails
        back, as ``rope_tail(out, cos, sin, True)`` does.
    behind : int
        How far behind pos0 row 0 is.
    """
    n, n_head, d = q.shape
    cap = len(ring)
    assert out.shape == q.shape and ring.shape[1] == d and sinks.shape == (n_head,), (out, q, ring)
    assert d % 8 == 0 and d <= MAX_DIM, d
    assert n_swa <= cap, (n_swa, ring)
    most, top_k = n_swa, 0
    if ratio:
        assert rows is not None and rows.shape[1] == d and rows.dtype == ring.dtype, (rows, ring)
        top_k = sel.shape[1] if sel is not None else 0
        seen_rows = len(rows) if ctx.horizon is None else min(len(rows), ctx.horizon // ratio)
        most += top_k if sel is not None else seen_rows
    cos, sin = turn if turn is not None else (None, None)
    half = cos.shape[1] if cos is not None else 0
    chunks = -(-most // CHUNK)
    chosen = int(bool(ratio) and sel is not None)
    scale = float(np.float32(1 / np.sqrt(np.float64(d))))
    packed = ring.dtype == np.float16
    body = attention_f16 if packed else attention_f32
    row_bytes = chunks * n_head * (d + 2) * 4
    at_once = min(n, max(SPLIT_BYTES // row_bytes, 1)) if n <= SPLIT_ROWS else n
    for row0 in range(0, n, at_once):
        part = slice(row0, row0 + at_once)
        count = min(at_once, n - row0)
        seen = dict(sinks=sinks, pos=pos0, n_swa=n_swa, ratio=ratio, chosen=chosen)
        seen |= dict(row0=row0 + behind)
        seen |= dict(n_sel=n_sel if n_sel is None else n_sel[part], n_head=n_head, d=d)
        seen |= dict(cos=cos, sin=sin, max_chunks=chunks, half=half)
        walked = dict(q=q[part], ring=ring, rows=rows, sel=sel if sel is None else sel[part])
        walked |= dict(cap=cap, top_k=top_k, scale=scale)
        if n <= SPLIT_ROWS:
            heads = attention_f16.PART_HEADS if packed else attention_f32.HEADS
            parts = ctx.scratch("attention parts", (count, chunks, n_head, d))
            tops = ctx.scratch("attention tops", (count, chunks, n_head, 2))
            grid = (chunks, -(-n_head // heads), count)
            ctx.launch(body.PART, grid, *body.WALK(out=parts, tops=tops, **walked, **seen))
            grid = (-(-d // (2 * JOIN_THREADS)), n_head, count)
            joined = JOIN(out=out[part], parts=parts, tops=tops, **seen)
            ctx.launch(attention_join, grid, *joined)
        else:
            heads = attention_f16.WHOLE_HEADS if packed else attention_f32.HEADS
            blocks = (n, -(-n_head // heads))
            ctx.launch(body.WHOLE, blocks, *body.WALK(out=out, tops=None, **walked, **seen))
    ctx.wrote(out)


def attend_block(
    ctx: Context,
    out: DeviceArray,
    q: DeviceArray,
    ring: DeviceArray,
    sinks: DeviceArray,
    pos0: DeviceArray,
    before: int,
) -> None:
    """`attend` of raw rows, where each of a block's n rows sees the same ones.

    It is one query with the heads of all rows, at the position of the last: its window reaches
    back over the block and `before` rows before it, or as many as there are.

    Parameters
    ----------
    out : float32 DeviceArray of shape (n, n_head, head_dim), overwritten
        Not q.
    q : float32 DeviceArray of shape (n, n_head, head_dim)
    ring : DeviceArray of shape (cap, head_dim), float16 or float32
        Raw rows, position % cap, those of the block among them.
    sinks : float32 DeviceArray of shape (n * n_head,)
    pos0 : int32 DeviceArray of shape (1,)
        Position of the block's first row, in device memory.
    before : int
    """
    n, n_head, d = q.shape
    one = 1, n * n_head, d
    heads, asked = out.reshape(one), q.reshape(one)
    window = before + n
    attend(ctx, heads, asked, ring, None, None, None, sinks, pos0, window, 0, behind=n - 1)
