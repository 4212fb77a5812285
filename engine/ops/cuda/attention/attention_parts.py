"""What every attention kernel shares: a query's list of rows, and how parts of it are joined.

The list is cut into chunks of 32 entries. A chunk gives its greatest score m, the sum l of its
weights exp(s - m) and its weighted rows o; chunks are joined in the order of the list by one
formula, whether one block walks over them all or each has a block of its own. The sink is the
first part: score `sink`, weight 1, no row.
"""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

from numba import cuda

from engine.ops.cuda.build.arguments import ArgumentBlock
from engine.ops.cuda.build.kernel import F32, F32P, I32P, U32, device, kernel
from engine.ops.cuda.build.ptx import (
    address,
    fma_rn,
    ld_nc_v2_f32,
    mul_rn,
    st_v2_f32,
    sub_rn,
)
from engine.ops.cuda.build.scalar import exp
from engine.ops.cuda.build.types import f32, i32, u32
from engine.ops.cuda.rows.rope import turned
from engine.ops.cuda.sizes import CHUNK

LOWEST = f32(-math.inf)
ZERO, ONE = f32(0), f32(1)
JOIN_THREADS = 128
_AHEAD = 4  # parts that are loaded before any of them is joined


_FIELDS: dict[str, tuple[Any, str]] = dict(
    out=(F32P, "(n, n_head, d), written; a part's rows: (n, max_chunks, n_head, d)"),
    parts=(F32P, "(n, max_chunks, n_head, d): weighted rows of the chunks"),
    tops=(F32P, "(n, max_chunks, n_head, 2): top score and mass of the parts; null without parts"),
    q=(F32P, "(n, n_head, d): queries"),
    ring=(None, "(cap, d): raw rows, by position % cap"),
    rows=(None, "(comp_cap, d): compressed rows; null if ratio is 0"),
    sel=(I32P, "(n, top_k): compressed rows that each query sees; null unless chosen"),
    n_sel=(I32P, "(n,): how many of a row's choices count; null unless chosen"),
    sinks=(F32P, "(n_head,): a score of each head that no row has"),
    pos=(I32P, "(1,): position of row 0"),
    cos=(F32P, "(n_positions, half): cosines of the rotation; null if half is 0"),
    sin=(F32P, "(n_positions, half): sines of the rotation; null if half is 0"),
    n_head=(U32, "heads"),
    d=(U32, "values of a head"),
    cap=(U32, "rows of the ring"),
    top_k=(U32, "columns of sel"),
    max_chunks=(U32, "chunks of the longest list"),
    n_swa=(U32, "raw rows that a query sees at most"),
    ratio=(U32, "positions of a compressed row; 0: there are none"),
    chosen=(U32, "1: of the compressed rows, only those of sel are seen"),
    half=(U32, "rotated pairs of a head's tail to turn back; 0: none"),
    row0=(U32, "row of the pass that is row 0 of these arrays"),
    scale=(F32, "factor of scores"),
)


def _block(name: str, fields: str, kept: Any = None) -> ArgumentBlock:
    chosen = {field: _FIELDS[field] for field in fields.split()}
    return ArgumentBlock(name, **{f: (kind or kept, text) for f, (kind, text) in chosen.items()})


def walk_block(kept: Any) -> ArgumentBlock:
    """Arguments of the kernels that walk over rows of the type `kept`."""
    fields = (
        "out tops q ring rows sel n_sel sinks pos cos sin "
        "n_head d cap top_k max_chunks n_swa ratio chosen half row0 scale"
    )
    return _block("Walk", fields, kept)


JOIN = _block(
    "Join",
    "out parts tops sinks n_sel pos cos sin n_head d max_chunks n_swa ratio chosen half row0",
)

# What a query sees: its position, how many raw rows, and how many rows in all.
Seen = namedtuple("Seen", "p raw total")


@device
def seen_rows(args, i):
    """What row i of the launch sees."""
    p = u32(u32(args.pos[0]) + args.row0 + i)
    visible = u32(p + u32(1))
    raw = args.n_swa if args.n_swa < visible else visible
    compressed = u32(0)
    if args.ratio:
        compressed = u32(args.n_sel[i]) if args.chosen else u32(visible // args.ratio)
    return Seen(p, raw, u32(raw + compressed))


@device
def entry_row(args, seen, first, j):
    """Where entry j of the list is: a compressed row, or the complement of a row of the ring.

    `first` is where the query's choices begin in sel.
    """
    row = i32(0)
    if j < seen.raw:
        row = i32(~i32(u32(u32(seen.p + u32(1)) - seen.raw + j) % args.cap))
    elif args.chosen:
        row = args.sel[u32(first + (j - seen.raw))]
    else:
        row = i32(j - seen.raw)
    return row


@device
def joined(m, part):
    """Greatest score of what is joined and a part, and the factors of both."""
    top = part if part > m else m
    return top, exp(sub_rn(m, top)), exp(sub_rn(part, top))


@device
def joined_value(value, factor, part, part_factor):
    return fma_rn(value, factor, mul_rn(part, part_factor))


@device
def store_pair(out, at, dim, d, a, b, p, turn):
    """Write the values (dim, dim + 1) of a head, turned back by the angles of position p.

    `at` is the place of the head's first value in `out`, `turn` = (cos, sin, half) of a kernel's
    block; half = 0 turns nothing. The block as a whole would cost attention_f32 nine registers
    on sm_121a.
    """
    cos, sin, half = turn
    plain = u32(d - half - half)
    if half and dim >= plain:
        k = u32(u32(p * half) + ((dim - plain) >> u32(1)))
        a, b = turned(a, b, cos[k], mul_rn(sin[k], -ONE))
    st_v2_f32(address(out) + u32(at + dim) * 4, a, b)


@kernel(JOIN, threads=JOIN_THREADS, writes=("out",))
def attention_join(args):
    """Grid (pieces of a head, heads, rows): each thread joins a pair of values."""
    h, i = u32(cuda.blockIdx.y), u32(cuda.blockIdx.z)
    dim = u32(2) * u32(cuda.blockIdx.x * JOIN_THREADS + cuda.threadIdx.x)
    n_head, d = args.n_head, args.d
    if dim < d:
        seen = seen_rows(args, i)
        chunks = u32(u32(seen.total + u32(CHUNK - 1)) // u32(CHUNK))
        part_m = cuda.local.array(_AHEAD, f32)
        part_l = cuda.local.array(_AHEAD, f32)
        part_a = cuda.local.array(_AHEAD, f32)
        part_b = cuda.local.array(_AHEAD, f32)
        m, mass, a, b = args.sinks[h], ONE, ZERO, ZERO
        for begin in range(0, chunks, _AHEAD):
            # Load a few parts; past the end the last one again, which is not joined.
            for k in range(_AHEAD):
                c = min(u32(begin + k), u32(chunks - u32(1)))
                head = u32(u32(u32(i * args.max_chunks) + c) * n_head + h)
                part_m[k], part_l[k] = ld_nc_v2_f32(address(args.tops) + head * 8)
                at = address(args.parts) + head * (d * 4) + dim * 4
                part_a[k], part_b[k] = ld_nc_v2_f32(at)
            # Join them in order.
            for k in range(_AHEAD):
                if u32(begin + k) < chunks:
                    m, f, g = joined(m, part_m[k])
                    mass = joined_value(mass, f, part_l[k], g)
                    a = joined_value(a, f, part_a[k], g)
                    b = joined_value(b, f, part_b[k], g)
        share = ONE / mass
        at = u32(u32(i * n_head + h) * d)
        turn = (args.cos, args.sin, args.half)
        store_pair(args.out, at, dim, d, mul_rn(a, share), mul_rn(b, share), seen.p, turn)
