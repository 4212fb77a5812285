"""Scores of indexer rows: sum over heads of relu(q_h . k) * w_h / sqrt(dim * n_head).

Official rows of 128 dims are bfloat16 and go through tensor cores: the products are exact, a
warp's 16 rows stay in registers while the queries pass. Others are float32, one thread a row.
Either way a score's heads are added in one order, whatever rows and queries are beside it.
"""

from __future__ import annotations

from numba import cuda

from engine.ops.cuda.build.kernel import F32, F32P, I32P, U16P, U32, device, kernel
from engine.ops.cuda.build.ptx import (
    add_rn,
    address,
    cp_async16_fill,
    cp_async_commit,
    cp_async_wait1,
    fma_rn,
    ld_nc_b32,
    ld_nc_v4_f32,
    ldmatrix_x4,
    lds_v2_f32,
    mma_m16n8k16_bf16,
    mul_rn,
    pack_bf16,
    shared_address,
    shfl_xor_f32,
    st_v2,
    sts_f32,
)
from engine.ops.cuda.build.types import f32, i32, u32

THREADS = 256
WARPS = THREADS // 32
ROWS = 16 * WARPS  # rows of a block
QUERIES = 16  # queries that a block passes its rows by
HEADS = 64  # heads that are in shared memory at a time
DIM = 128
STEPS = DIM // 16
ZERO = f32(0)
_TILE = HEADS * DIM * 2  # bytes of a buffer of heads
_WEIGHTS = HEADS * 4


@device
def _relu(x):
    return ZERO if x < ZERO else x


@kernel(U16P, F32P, U32, threads=THREADS, writes=("narrow",))
def indexer_narrow(narrow, q, quads):
    """bfloat16 of float32 values that it holds exactly, four a thread."""
    k = u32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
    if k < quads:
        a, b, c, e = ld_nc_v4_f32(address(q) + k * 16)
        st_v2(address(narrow) + k * 8, pack_bf16(a, b), pack_bf16(c, e))


@device
def _load_rows(a, rows, mine, t, cap):
    """Rows `mine` and `mine` + 8 as fragments of A; those past the end are row 0, to be ignored."""
    for step in range(STEPS):
        for e in range(4):
            row = u32(mine + u32(8 * (e & 1)))
            row = row if row < cap else u32(0)
            dim = u32(u32(16 * step + 8 * (e >> 1)) + t + t)
            a[4 * step + e] = ld_nc_b32(address(rows) + row * (DIM * 2) + dim * 2)


@device
def _add_heads(a, buffer, eights, lane, low, high):
    """low, high + relu(row . head) * weight of two heads of every eight, rows g and g + 8."""
    t = lane & u32(3)
    r, half, part = lane & u32(7), lane >> u32(3) & u32(1), lane >> u32(4)
    for eight in range(eights):
        head = u32(u32(8 * eight) + r)
        c0, c1, c2, c3 = ZERO, ZERO, ZERO, ZERO
        for step in range(0, STEPS, 2):
            cell = u32(u32(2 * step) + part * u32(2) + half)
            cell = u32(cell ^ r)
            at = u32(buffer + head * u32(DIM * 2) + cell * u32(16))
            b0, b1, b2, b3 = ldmatrix_x4(at)
            f = 4 * step
            c0, c1, c2, c3 = mma_m16n8k16_bf16(
                a[f], a[f + 1], a[f + 2], a[f + 3], b0, b1, c0, c1, c2, c3
            )
            f = 4 * step + 4
            c0, c1, c2, c3 = mma_m16n8k16_bf16(
                a[f], a[f + 1], a[f + 2], a[f + 3], b2, b3, c0, c1, c2, c3
            )
        at = u32(buffer + u32(_TILE) + u32(u32(8 * eight) + t + t) * u32(4))
        u, v = lds_v2_f32(at)
        low = fma_rn(_relu(c1), v, fma_rn(_relu(c0), u, low))
        high = fma_rn(_relu(c3), v, fma_rn(_relu(c2), u, high))
    return low, high


@kernel(
    *(F32P, U16P, F32P, U16P, I32P),
    *(U32,) * 6,
    F32,
    threads=THREADS,
    dynamic_smem=2 * (_TILE + _WEIGHTS),
    requires=("HMMA.16816.F32.BF16", "LDSM.16.M88.4", "LDGSTS"),
    writes=("scores",),
)
def indexer_scores_bf16(scores, q, head_w, rows, pos, row0, n, n_head, cap, ratio, top_k, share):
    """Grid (groups of ROWS rows, groups of QUERIES queries); queries row0 .. row0 + n - 1.

    Heads come by groups of up to 64, copied one group ahead. A lane holds the rows g and g + 8
    of its warp and adds the heads 2 t and 2 t + 1 of every eight; a quad's sums meet at the end.
    """
    # Who this thread is, which rows and queries the block has, and whether any query sees them.
    shared = cuda.shared.array(0, i32)
    base = shared_address(shared)
    thread = u32(cuda.threadIdx.x)
    lane, warp = thread & u32(31), thread >> u32(5)
    g, t = lane >> u32(2), lane & u32(3)
    begin = u32(cuda.blockIdx.x * ROWS)
    first = u32(cuda.blockIdx.y * QUERIES)
    last = min(u32(first + u32(QUERIES)), n)
    visible = u32(u32(u32(pos[0]) + row0 + last) // ratio)
    # The last query sees the most.
    if visible <= top_k or begin >= visible:
        return

    # The warp's 16 rows, as fragments.
    mine = u32(begin + warp * u32(16) + g)
    a = cuda.local.array(32, i32)
    _load_rows(a, rows, mine, t, cap)

    # Pieces of work are a query's groups of heads; piece k + 1 is copied while k is multiplied.
    groups = u32(u32(n_head + u32(HEADS - 1)) // u32(HEADS))
    total = u32(u32(last - first) * groups)
    low, high = ZERO, ZERO
    for work in range(u32(0), u32(total + u32(1))):
        # Start copying a group of heads and their weights, and wait for the group before. Cells of
        # 16 bytes of a head's 256 are XORed by the head, so that eight heads' meet in no bank.
        if work < total:
            i = u32(row0 + first + u32(work) // groups)
            head0 = u32(u32(u32(work) % groups) * u32(HEADS))
            buffer = u32(base + (u32(work) & u32(1)) * u32(_TILE + _WEIGHTS))
            column, line = thread & u32(15), thread >> u32(4)
            for step in range(HEADS * 16 // THREADS):
                head = u32(u32(16 * step) + line)
                inside = u32(head0 + head) < n_head
                at = u32(i * n_head + (u32(head0 + head) if inside else u32(0)))
                source = address(q) + at * (DIM * 2) + column * 16
                cell = u32(column ^ (head & u32(7)))
                target = u32(buffer + head * u32(DIM * 2) + cell * u32(16))
                cp_async16_fill(target, source, i32(16) if inside else i32(0))
            if thread < u32(HEADS):
                weight = ZERO
                if head0 + thread < n_head:
                    weight = mul_rn(head_w[u32(i * n_head + head0 + thread)], share)
                sts_f32(u32(buffer + u32(_TILE) + thread * u32(4)), weight)
        cp_async_commit()
        cp_async_wait1()
        cuda.syncthreads()

        # Multiply the group before, and store a score when all its heads are in it.
        if work > 0:
            done = u32(work - 1)
            i = u32(row0 + first + done // groups)
            group = u32(done % groups)
            buffer = u32(base + (done & u32(1)) * u32(_TILE + _WEIGHTS))
            eights = min(
                u32(HEADS // 8),
                u32(u32(n_head - group * u32(HEADS) + u32(7)) >> u32(3)),
            )
            if group == u32(0):
                low, high = ZERO, ZERO
            low, high = _add_heads(a, buffer, eights, lane, low, high)
            if group + u32(1) == groups:
                low = add_rn(low, shfl_xor_f32(low, 1))
                low = add_rn(low, shfl_xor_f32(low, 2))
                high = add_rn(high, shfl_xor_f32(high, 1))
                high = add_rn(high, shfl_xor_f32(high, 2))
                at = u32(u32(i - row0) * cap + mine)
                if t == u32(0):
                    if mine < cap:
                        scores[at] = low
                    if mine + u32(8) < cap:
                        scores[u32(at + u32(8))] = high
        # The next copies overwrite what was just read.
        cuda.syncthreads()


@kernel(
    *(F32P, F32P, F32P, F32P, I32P),
    *(U32,) * 7,
    F32,
    threads=THREADS,
    writes=("scores",),
)
def indexer_scores_f32(scores, q, head_w, rows, pos, row0, n, n_head, cap, ratio, top_k, d, share):
    """Grid (groups of THREADS rows, queries): one thread a row, heads one after another."""
    i = u32(row0 + u32(cuda.blockIdx.y))
    row = u32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
    visible = u32(u32(u32(pos[0]) + i + u32(1)) // ratio)
    if visible > top_k and row < visible and row < cap:
        # A head's dot, its weight, and on to the next head.
        total = ZERO
        key = address(rows) + row * (d * 4)
        for h in range(n_head):
            head = u32(i * n_head + u32(h))
            query = address(q) + head * (d * 4)
            a, b, c, e = ZERO, ZERO, ZERO, ZERO
            for j in range(0, d * u32(4), 16):
                k0, k1, k2, k3 = ld_nc_v4_f32(key + j)
                q0, q1, q2, q3 = ld_nc_v4_f32(query + j)
                a, b = fma_rn(q0, k0, a), fma_rn(q1, k1, b)
                c, e = fma_rn(q2, k2, c), fma_rn(q3, k3, e)
            dot = add_rn(add_rn(a, b), add_rn(c, e))
            total = fma_rn(_relu(dot), mul_rn(head_w[head], share), total)
        scores[u32(u32(i - row0) * cap + row)] = total
