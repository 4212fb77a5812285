"""The compiled part of the feed-forward: leaves, job records, and the phases of the routed experts.

Everything here works on addresses, int64, of rows that the caller has checked. Which op calls a
phase, and what working memory it gets, is `moe`'s business.
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np

from engine.ops.cpu.products import (
    D_COLS,
    D_KIND,
    D_N_EXPERT,
    D_ROWS,
    activation_bytes,
    activation_job,
    rows_job,
)
from engine.ops.cpu.runtime.jit import kernel
from engine.ops.cpu.runtime.jobs import (
    A_COLS,
    A_LIMIT,
    A_NEXT,
    A_ROW,
    A_SPLIT,
    A_SRC,
    A_STRIDE,
    A_TABLE,
    A_UP,
    A_WEIGHTS,
    COST,
    FN,
    JOB_BYTES,
    UNITS,
    N,
    run,
)
from engine.ops.cpu.runtime.leaf import leaf, load_i64, stack, store_f32, store_i64
from engine.ops.cpu.simd.ir import F32, emitter, vec


def _lanes(ir, n):
    """Offsets of a row of n values: vectors of 16, then single values; yields (address, type)."""
    b = ir.b
    whole = b.lshr(n, ir.c(4))
    done = b.shl(whole, ir.c(4))
    for count, start, of in ((whole, None, vec(F32)), (b.sub(n, done), done, F32)):
        with ir.loop(count) as i:
            if start is None:
                yield b.shl(i, ir.c(6)), of
            else:
                yield b.shl(b.add(start, i), ir.c(2)), of


@emitter
def _move(ir, dst, src, n):
    """dst = src, rows of n float32."""
    for at, of in _lanes(ir, n):
        ir.store(ir.load(ir.b.add(src, at), of, 4), ir.b.add(dst, at), 4)


@emitter
def _accumulate(ir, dst, src, n):
    """dst += src, rows of n float32."""
    for at, of in _lanes(ir, n):
        to = ir.b.add(dst, at)
        ir.store(ir.b.fadd(ir.load(to, of, 4), ir.load(ir.b.add(src, at), of, 4)), to, 4)


@leaf
def sum_slots(job, u0, u1):
    """Row u of the output: its slots' rows, in slot order, from where A_TABLE says they are."""
    cols, used = load_i64(job + A_COLS), load_i64(job + A_SPLIT)
    for u in range(u0, u1):
        out = load_i64(job + A_ROW) + u * cols * 4
        for s in range(used):
            at = load_i64(load_i64(job + A_TABLE) + (u * used + s) * 8)
            src = load_i64(job + A_SRC) + at * cols * 4
            if s == 0:
                _move(out, src, cols)
            else:
                _accumulate(out, src, cols)


@leaf
def add_rows(job, u0, u1):
    """Row u of the output: itself plus row u of the other."""
    cols = load_i64(job + A_COLS)
    for u in range(u0, u1):
        _accumulate(
            load_i64(job + A_ROW) + u * cols * 4, load_i64(job + A_SRC) + u * cols * 4, cols
        )


@kernel
def _round_64(n):
    return (n + 63) // 64 * 64


# Job records; `jobs` describes their fields.


@kernel
def swiglu_job(job, fn, gate, up, out, n, cols, limit, weights, follow):
    """n rows of SwiGLU, times one weight each or 1, then job `follow` for each if it is not 0."""
    store_i64(job + FN, fn)
    store_i64(job + N, n)
    store_i64(job + UNITS, n)
    store_i64(job + COST, 32 * cols)
    store_i64(job + A_COLS, cols)
    store_i64(job + A_SRC, gate)
    store_i64(job + A_UP, up)
    store_i64(job + A_ROW, out)
    store_f32(job + A_LIMIT, limit)
    store_f32(job + A_LIMIT + 4, np.float32(1))
    store_i64(job + A_WEIGHTS, weights if weights != 0 else job + A_LIMIT + 4)
    store_i64(job + A_STRIDE, 4 if weights != 0 else 0)
    store_i64(job + A_NEXT, follow)


@kernel
def rows_fn_job(job, fn, src, table, out, n, cols, split):
    """n rows of a leaf that adds `split` rows of src, found through a table, into each of out."""
    store_i64(job + FN, fn)
    store_i64(job + N, n)
    store_i64(job + UNITS, n)
    store_i64(job + COST, 2 * cols * split)
    store_i64(job + A_COLS, cols)
    store_i64(job + A_SRC, src)
    store_i64(job + A_TABLE, table)
    store_i64(job + A_ROW, out)
    store_i64(job + A_SPLIT, split)


# Addresses in the working memory of `routed`. Pairs (row, slot) are numbered row by row; sorted,
# those of one expert lie together, in ascending order. Entries are int64 unless said:
#     first    (n_expert + 1): sorted place of each expert's first pair; then the number of pairs
#     place    (pairs): sorted place of each pair
#     weights  (pairs) float32: router's weights, sorted
#     gate     (pairs, n_ff) float32: products with gate, sorted; then the middle rows
#     up       (pairs, n_ff) float32: products with up, sorted
#     y        (pairs, n_out) float32: products with down, sorted; in up's memory, spent by then
#     jobs     job records
#     rest     quantised rows and tables of their addresses
_Space = namedtuple("_Space", "first place weights gate up y jobs rest")
# Rows of a routed call: rows of x, slots of a row, pairs, and the matrices' sizes.
_Sizes = namedtuple("_Sizes", "n used pairs n_expert cols n_ff n_out")
N_KINDS = 3  # of quantisation


@kernel
def get_entry(table, i):
    """Entry i of a table of int64."""
    return load_i64(table + 8 * i)


@kernel
def put_entry(table, i, value):
    store_i64(table + 8 * i, value)


@kernel
def _job(jobs, i):
    """Address of record i of the jobs."""
    return jobs + i * JOB_BYTES


@kernel
def _layout(sizes, space):
    """Where everything lies in the working memory from address `space` on; see `moe_bytes`."""
    pairs, n_ff = sizes.pairs, sizes.n_ff
    first = space
    place = first + _round_64((sizes.n_expert + 1) * 8)
    weights = place + _round_64(pairs * 8)
    gate = weights + _round_64(pairs * 4)
    up = gate + _round_64(pairs * n_ff * 4)
    jobs = up + _round_64(pairs * max(n_ff, sizes.n_out) * 4)
    rest = jobs + (2 * min(sizes.n_expert, pairs) + 4) * JOB_BYTES
    return _Space(first, place, weights, gate, up, up, jobs, rest)


@kernel
def _sort_pairs(ids, weights, sizes, space):
    """Counting sort of the pairs by expert; False where an id is not an expert's."""
    first, n_expert = space.first, sizes.n_expert
    # Pairs of each expert, counted one entry further on, then added up: where each expert begins.
    for e in range(n_expert + 1):
        put_entry(first, e, 0)
    for i in range(sizes.pairs):
        e = ids[i]
        if e < 0 or e >= n_expert:
            return False
        put_entry(first, e + 1, get_entry(first, e + 1) + 1)
    for e in range(n_expert):
        put_entry(first, e + 1, get_entry(first, e + 1) + get_entry(first, e))
    # Each pair takes its expert's next place, which moves every start to the next expert's.
    for i in range(sizes.pairs):
        e = ids[i]
        p = get_entry(first, e)
        put_entry(first, e, p + 1)
        put_entry(space.place, i, p)
        store_f32(space.weights + 4 * p, weights[i])
    for e in range(n_expert, 0, -1):
        put_entry(first, e, get_entry(first, e - 1))
    put_entry(first, 0, 0)
    return True


@kernel
def _quantise_rows(fns, x, gate_w, up_w, sizes, space, tables, team):
    """Rows of x as gate and up take them. Returns where free memory begins.

    Entry `kind` of `tables` is the address of a table of row addresses, one per sorted pair.
    """
    table_fns = get_entry(fns, 0)
    gate_kind, up_kind = load_i64(gate_w + D_KIND), load_i64(up_w + D_KIND)
    free = space.rest
    n_jobs = 0
    for kind in range(N_KINDS):
        if kind in (gate_kind, up_kind):
            job = _job(space.jobs, n_jobs)
            by_row = activation_job(job, table_fns, kind, x, sizes.n, sizes.cols, 1, free)
            put_entry(tables, kind, by_row)
            free += activation_bytes(kind, sizes.n, sizes.cols)
            n_jobs += 1
    run(space.jobs, n_jobs, team)
    # From tables of rows to tables of sorted pairs.
    for kind in range(N_KINDS):
        if kind in (gate_kind, up_kind):
            by_row = get_entry(tables, kind)
            for i in range(sizes.pairs):
                put_entry(free, get_entry(space.place, i), get_entry(by_row, i // sizes.used))
            put_entry(tables, kind, free)
            free += _round_64(8 * sizes.pairs)
    return free


@kernel
def _gate_up(gate_w, up_w, sizes, space, tables, team):
    """Products with gate and up, two jobs for each expert that has pairs."""
    n_ff = sizes.n_ff
    n_jobs = 0
    for e in range(sizes.n_expert):
        p = get_entry(space.first, e)
        count = get_entry(space.first, e + 1) - p
        if count > 0:
            for side in range(2):
                w = gate_w if side == 0 else up_w
                out = space.gate if side == 0 else space.up
                rows = get_entry(tables, load_i64(w + D_KIND)) + 8 * p
                job = _job(space.jobs, n_jobs)
                rows_job(job, w, rows, count, out + 4 * n_ff * p, 4 * n_ff, e, 0, n_ff)
                n_jobs += 1
    run(space.jobs, n_jobs, team)


@kernel
def _middle(fns, down_w, sizes, space, limit, free, team):
    """SwiGLU in place of gate, quantised as down takes it; the table of the middle rows."""
    follow = _job(space.jobs, 1)
    table_fns, kind = get_entry(fns, 0), load_i64(down_w + D_KIND)
    pairs, n_ff, gate = sizes.pairs, sizes.n_ff, space.gate
    middle = activation_job(follow, table_fns, kind, gate, pairs, n_ff, 1, free)
    fn = get_entry(fns, 1)
    swiglu_job(space.jobs, fn, gate, space.up, gate, pairs, n_ff, limit, space.weights, follow)
    run(space.jobs, 1, team)
    return middle


@kernel
def _down(down_w, middle, sizes, space, team):
    """Products with down, a job for each expert that has pairs."""
    n_out = sizes.n_out
    n_jobs = 0
    for e in range(sizes.n_expert):
        p = get_entry(space.first, e)
        count = get_entry(space.first, e + 1) - p
        if count > 0:
            job = _job(space.jobs, n_jobs)
            out = space.y + 4 * n_out * p
            rows_job(job, down_w, middle + 8 * p, count, out, 4 * n_out, e, 0, n_out)
            n_jobs += 1
    run(space.jobs, n_jobs, team)


@kernel
def routed(fns, out, x, ids, weights, gate_w, up_w, down_w, limit, space, team):
    """The routed experts' sum; False where an id is not an expert's."""
    n, used = ids.shape
    n_expert, cols = load_i64(gate_w + D_N_EXPERT), load_i64(gate_w + D_COLS)
    n_ff, n_out = load_i64(gate_w + D_ROWS), load_i64(down_w + D_ROWS)
    sizes = _Sizes(n, used, n * used, n_expert, cols, n_ff, n_out)
    held = _layout(sizes, space)
    if not _sort_pairs(ids.ravel(), weights.ravel(), sizes, held):
        return False
    tables = stack(64)
    free = _quantise_rows(fns, x.ctypes.data, gate_w, up_w, sizes, held, tables, team)
    _gate_up(gate_w, up_w, sizes, held, tables, team)
    middle = _middle(fns, down_w, sizes, held, limit, free, team)
    _down(down_w, middle, sizes, held, team)
    # Each row's slots are added, in slot order.
    fn = get_entry(fns, 2)
    rows_fn_job(held.jobs, fn, held.y, held.place, out.ctypes.data, n, n_out, used)
    run(held.jobs, 1, team)
    return True
