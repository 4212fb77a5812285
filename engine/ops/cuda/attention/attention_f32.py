"""Attention over float32 rows without tensor cores: one warp a head, eight heads a block.

Rows that are kept as computed have no narrower exact form; correct first, and fast enough to
compare with. A chunk's rows are staged in shared memory, each padded by four values so that lanes
that read the same dims of different rows meet in no bank.
"""

from __future__ import annotations

from numba import cuda

from engine.ops.cuda.attention.attention_parts import (
    LOWEST,
    ONE,
    ZERO,
    entry_row,
    joined,
    joined_value,
    seen_rows,
    store_pair,
    walk_block,
)
from engine.ops.cuda.build.kernel import F32P, Kernel, kernel
from engine.ops.cuda.build.ptx import (
    add_rn,
    address,
    fma_rn,
    ld_nc_v4_f32,
    lds_v4_f32,
    mul_rn,
    shared_address,
    shfl_f32,
    shfl_i32,
    shfl_xor_f32,
    st_v2_f32,
    sts_v4_f32,
    sub_rn,
)
from engine.ops.cuda.build.reduce import warp_sum
from engine.ops.cuda.build.scalar import exp
from engine.ops.cuda.build.types import f32, i32, u32
from engine.ops.cuda.sizes import CHUNK, MAX_DIM

THREADS = 256
HEADS = THREADS // 32
PAD = 4
QUADS = MAX_DIM // 128  # groups of four values of a lane
WALK = walk_block(F32P)


def _kernel(split: bool) -> Kernel:
    """Kernel over all chunks, or of one chunk a block if split."""
    n_o = 4 * QUADS

    @kernel(
        WALK,
        threads=THREADS,
        dynamic_smem=(CHUNK * (MAX_DIM + PAD) + HEADS * MAX_DIM) * 4,
        name=f"attention_f32_{'part' if split else 'whole'}",
        writes=("out", "tops"),
    )
    def attention_f32(args):
        # Which query and head this warp has, and the part of the query's list this block has.
        shared = cuda.shared.array(0, i32)
        held = shared_address(shared)
        lane, warp = u32(cuda.threadIdx.x) & u32(31), u32(cuda.threadIdx.x) >> u32(5)
        i = u32(cuda.blockIdx.z) if split else u32(cuda.blockIdx.x)
        n_head, d = args.n_head, args.d
        head = u32(u32(cuda.blockIdx.y) * u32(HEADS) + warp)
        valid = head < n_head
        seen = seen_rows(args, i)
        total = seen.total
        begin = u32(cuda.blockIdx.x * CHUNK) if split else u32(0)
        stop = min(u32(begin + u32(CHUNK)), total) if split else total
        if begin >= total:
            return
        first = u32(i * args.top_k)
        stride = u32((d + u32(PAD)) * u32(4))
        query = u32(held + u32(CHUNK * (MAX_DIM + PAD) * 4) + warp * u32(MAX_DIM * 4))

        # The warp's query goes to shared memory.
        if valid:
            source = address(args.q) + u32(u32(i * n_head + head) * d) * 4
            for j in range(lane * u32(4), d, 128):
                a, b, c, e = ld_nc_v4_f32(source + j * 4)
                sts_v4_f32(u32(query + u32(j) * u32(4)), a, b, c, e)
        o = cuda.local.array(n_o, f32)
        part = cuda.local.array(n_o, f32)
        for k in range(n_o):
            o[k] = ZERO
        m, mass = LOWEST, ONE
        if valid and not split:
            m = args.sinks[head]

        for start in range(begin, stop, CHUNK):
            # The chunk's rows go to shared memory, a row per warp and step.
            count = min(u32(CHUNK), u32(total - u32(start)))
            cuda.syncthreads()
            mine = i32(-1)
            if lane < count:
                mine = entry_row(args, seen, first, u32(start + lane))
            for step in range(CHUNK // HEADS):
                row = u32(u32(HEADS * step) + warp)
                found = shfl_i32(mine, i32(row))
                source = address(args.rows) if found >= 0 else address(args.ring)
                source += (found if found >= 0 else ~found) * (d * 4)
                target = u32(held + row * stride)
                if row < count:
                    for j in range(lane * u32(4), d, 128):
                        a, b, c, e = ld_nc_v4_f32(source + j * 4)
                        sts_v4_f32(u32(target + u32(j) * u32(4)), a, b, c, e)
            cuda.syncthreads()

            # Scores and weights: lane l has row l.
            a, b, c, e = ZERO, ZERO, ZERO, ZERO
            s = LOWEST
            if valid and lane < count:
                row = u32(held + lane * stride)
                for j in range(0, d * u32(4), 16):
                    k0, k1, k2, k3 = lds_v4_f32(u32(row + u32(j)))
                    q0, q1, q2, q3 = lds_v4_f32(u32(query + u32(j)))
                    a, b = fma_rn(q0, k0, a), fma_rn(q1, k1, b)
                    c, e = fma_rn(q2, k2, c), fma_rn(q3, k3, e)
                s = mul_rn(add_rn(add_rn(a, b), add_rn(c, e)), args.scale)
            top = s
            for step in range(5):
                top = max(top, shfl_xor_f32(top, 16 >> step))
            # A warp without a head has no score at all.
            weight = exp(sub_rn(s, top)) if valid else ZERO
            whole = warp_sum(weight)

            # The weighted rows: a lane has the values 128 k + 4 l .. 128 k + 4 l + 3.
            for k in range(n_o):
                part[k] = ZERO
            for r in range(count):
                w = shfl_f32(weight, i32(r))
                row = u32(held + u32(r) * stride)
                for k in range(QUADS):
                    dim = u32(u32(128 * k) + lane * u32(4))
                    if dim < d:
                        k0, k1, k2, k3 = lds_v4_f32(u32(row + dim * u32(4)))
                        part[4 * k] = fma_rn(w, k0, part[4 * k])
                        part[4 * k + 1] = fma_rn(w, k1, part[4 * k + 1])
                        part[4 * k + 2] = fma_rn(w, k2, part[4 * k + 2])
                        part[4 * k + 3] = fma_rn(w, k3, part[4 * k + 3])

            # The chunk joins those before it, or is kept as a part.
            if split:
                for k in range(n_o):
                    o[k] = part[k]
                m, mass = top, whole
            else:
                m, f, g = joined(m, top)
                mass = joined_value(mass, f, whole, g)
                for k in range(n_o):
                    o[k] = joined_value(o[k], f, part[k], g)

        # The result is stored: the part as it is, or the whole divided by its mass.
        if valid:
            at = u32(u32(i * n_head + head) * d)
            share = ONE / mass
            chunk = u32(u32(i * args.max_chunks) + u32(cuda.blockIdx.x))
            row = u32(chunk * n_head + head)
            if split and lane == u32(0):
                st_v2_f32(address(args.tops) + row * 8, m, mass)
            for k in range(2 * QUADS):
                dim = u32(u32(128 * (k // 2) + 2 * (k % 2)) + lane * u32(4))
                if dim < d:
                    a, b = o[2 * k], o[2 * k + 1]
                    if split:
                        st_v2_f32(address(args.out) + row * (d * 4) + dim * 4, a, b)
                    else:
                        a, b = mul_rn(a, share), mul_rn(b, share)
                        turn = (args.cos, args.sin, args.half)
                        store_pair(args.out, at, dim, d, a, b, seen.p, turn)

    return attention_f32


WHOLE, PART = _kernel(False), _kernel(True)
