"""Every PTX instruction that kernels use and numba does not offer, as functions of kernels.

Register types are exact: int32 for packed data, float32, int64 addresses of global memory
(`address` of a pointer argument plus bytes), uint32 addresses of shared memory (`shared_address`
of an array plus bytes). Names say what they do; PTX ISA 8.0 chapters 9.7 describe each.

Fragments of ``mma.m16n8`` (lane = 4 g + t; rows of A and D are 0..15, columns of B and D 0..7):

    D, C   c0 c1 = row g, columns 2t 2t+1;  c2 c3 = row g + 8
    k32 s8     a0 = row g, k 4t..4t+3;  a1 = row g + 8;  a2, a3 = the same at k + 16
               b0 = column g, k 4t..4t+3;  b1 = at k + 16
    k16 16-bit a0 = row g, k 2t 2t+1;  a1 = row g + 8;  a2, a3 = at k + 8
               b0 = column g, k 2t 2t+1;  b1 = at k + 8

The lowest k is in the lowest bits. Any permutation of k is allowed when A and B agree.

The stand-ins that the native simulation runs are in `natsim.ops`, under the same names.
"""

from __future__ import annotations

from numba.cuda import types

from engine.ops.cuda.build.asm import address, asm_op, bitcast_op, shared_address

__all__ = ["address", "shared_address"]

_I, _U, _F, _L, _H = types.int32, types.uint32, types.float32, types.int64, types.uint16

# Integer dot products of four bytes, and tensor core products.

dp4a = asm_op("dp4a", "dp4a.s32.s32 $0, $1, $2, $3;", (_I,), (_I, _I, _I))
dp4a_us = asm_op("dp4a_us", "dp4a.u32.s32 $0, $1, $2, $3;", (_I,), (_I, _I, _I))

_MMA = "{$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};"
_MMA_K16_S8 = "{$0,$1,$2,$3}, {$4,$5}, {$6}, {$7,$8,$9,$10};"

# (a0, a1, a2, a3, b0, b1, c0, c1, c2, c3) -> (d0, d1, d2, d3); int32 sums are exact
mma_m16n8k32_s8 = asm_op(
    "mma_m16n8k32_s8",
    f"mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {_MMA}",
    (_I,) * 4,
    (_I,) * 10,
)
# unsigned A (weights with an offset), signed B
mma_m16n8k32_u8s8 = asm_op(
    "mma_m16n8k32_u8s8",
    f"mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {_MMA}",
    (_I,) * 4,
    (_I,) * 10,
)
# (a0, a1, b0, c0, c1, c2, c3): a0 = row g, k 4t..4t+3; a1 = row g + 8; b0 = column g
mma_m16n8k16_s8 = asm_op(
    "mma_m16n8k16_s8",
    f"mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {_MMA_K16_S8}",
    (_I,) * 4,
    (_I,) * 7,
)
mma_m16n8k16_f16 = asm_op(
    "mma_m16n8k16_f16",
    f"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {_MMA}",
    (_F,) * 4,
    (_I,) * 6 + (_F,) * 4,
)
mma_m16n8k16_bf16 = asm_op(
    "mma_m16n8k16_bf16",
    f"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {_MMA}",
    (_F,) * 4,
    (_I,) * 6 + (_F,) * 4,
)

# Four 8x8 matrices of 16-bit values; lane 8 m + r holds the shared address of row r of matrix m.
# Result m of lane 4 g + t: elements 2t, 2t+1 of row g; transposed: of column g.
ldmatrix_x4 = asm_op(
    "ldmatrix_x4",
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0,$1,$2,$3}, [$4];",
    (_I,) * 4,
    (_U,),
    memory=True,
)
ldmatrix_x4_trans = asm_op(
    "ldmatrix_x4_trans",
    "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {$0,$1,$2,$3}, [$4];",
    (_I,) * 4,
    (_U,),
    memory=True,
)

# Loads of global memory that no kernel writes while this one runs. `stream` leaves no copy in L1:
# for weights, which are read once.

ld_nc_v4 = asm_op("ld_nc_v4", "ld.global.nc.v4.s32 {$0,$1,$2,$3}, [$4];", (_I,) * 4, (_L,))
ld_nc_v2 = asm_op("ld_nc_v2", "ld.global.nc.v2.s32 {$0,$1}, [$2];", (_I,) * 2, (_L,))
ld_nc_b32 = asm_op("ld_nc_b32", "ld.global.nc.s32 $0, [$1];", (_I,), (_L,))
ld_nc_u16 = asm_op("ld_nc_u16", "ld.global.nc.u16 $0, [$1];", (_H,), (_L,))
ld_nc_u8 = asm_op("ld_nc_u8", "ld.global.nc.u8 $0, [$1];", (_U,), (_L,))
ld_nc_f32 = asm_op("ld_nc_f32", "ld.global.nc.f32 $0, [$1];", (_F,), (_L,))
ld_nc_v2_f32 = asm_op("ld_nc_v2_f32", "ld.global.nc.v2.f32 {$0,$1}, [$2];", (_F,) * 2, (_L,))
ld_nc_v4_f32 = asm_op("ld_nc_v4_f32", "ld.global.nc.v4.f32 {$0,$1,$2,$3}, [$4];", (_F,) * 4, (_L,))

_STREAM = "ld.global.nc.L1::no_allocate"
ld_stream_v4 = asm_op(
    "ld_stream_v4", f"{_STREAM}.L2::128B.v4.s32 {{$0,$1,$2,$3}}, [$4];", (_I,) * 4, (_L,)
)
ld_stream_v2 = asm_op(
    "ld_stream_v2", f"{_STREAM}.L2::128B.v2.s32 {{$0,$1}}, [$2];", (_I,) * 2, (_L,)
)
ld_stream_b32 = asm_op("ld_stream_b32", f"{_STREAM}.L2::128B.s32 $0, [$1];", (_I,), (_L,))
ld_stream_u16 = asm_op("ld_stream_u16", f"{_STREAM}.L2::128B.u16 $0, [$1];", (_H,), (_L,))
ld_stream_u8 = asm_op("ld_stream_u8", f"{_STREAM}.L2::128B.u8 $0, [$1];", (_U,), (_L,))

# Loads and stores of global memory that keep their order.

ld_v4 = asm_op("ld_v4", "ld.global.v4.s32 {$0,$1,$2,$3}, [$4];", (_I,) * 4, (_L,), memory=True)
ld_v2 = asm_op("ld_v2", "ld.global.v2.s32 {$0,$1}, [$2];", (_I,) * 2, (_L,), memory=True)
ld_v4_f32 = asm_op(
    "ld_v4_f32", "ld.global.v4.f32 {$0,$1,$2,$3}, [$4];", (_F,) * 4, (_L,), memory=True
)
ld_v2_f32 = asm_op("ld_v2_f32", "ld.global.v2.f32 {$0,$1}, [$2];", (_F,) * 2, (_L,), memory=True)
# (address, values...)
st_v4 = asm_op("st_v4", "st.global.v4.s32 [$0], {$1,$2,$3,$4};", (), (_L,) + (_I,) * 4, memory=True)
st_v2 = asm_op("st_v2", "st.global.v2.s32 [$0], {$1,$2};", (), (_L,) + (_I,) * 2, memory=True)
st_b32 = asm_op("st_b32", "st.global.s32 [$0], $1;", (), (_L, _I), memory=True)
st_u16 = asm_op("st_u16", "st.global.u16 [$0], $1;", (), (_L, _H), memory=True)
st_v4_f32 = asm_op(
    "st_v4_f32", "st.global.v4.f32 [$0], {$1,$2,$3,$4};", (), (_L,) + (_F,) * 4, memory=True
)
st_v2_f32 = asm_op(
    "st_v2_f32", "st.global.v2.f32 [$0], {$1,$2};", (), (_L,) + (_F,) * 2, memory=True
)

# Shared memory by address: 16, 8 and 4 bytes.

lds_v4 = asm_op("lds_v4", "ld.shared.v4.s32 {$0,$1,$2,$3}, [$4];", (_I,) * 4, (_U,), memory=True)
lds_v2 = asm_op("lds_v2", "ld.shared.v2.s32 {$0,$1}, [$2];", (_I,) * 2, (_U,), memory=True)
lds_b32 = asm_op("lds_b32", "ld.shared.s32 $0, [$1];", (_I,), (_U,), memory=True)
lds_v4_f32 = asm_op(
    "lds_v4_f32", "ld.shared.v4.f32 {$0,$1,$2,$3}, [$4];", (_F,) * 4, (_U,), memory=True
)
lds_v2_f32 = asm_op("lds_v2_f32", "ld.shared.v2.f32 {$0,$1}, [$2];", (_F,) * 2, (_U,), memory=True)
lds_f32 = asm_op("lds_f32", "ld.shared.f32 $0, [$1];", (_F,), (_U,), memory=True)
sts_v4 = asm_op(
    "sts_v4", "st.shared.v4.s32 [$0], {$1,$2,$3,$4};", (), (_U,) + (_I,) * 4, memory=True
)
sts_v2 = asm_op("sts_v2", "st.shared.v2.s32 [$0], {$1,$2};", (), (_U,) + (_I,) * 2, memory=True)
sts_b32 = asm_op("sts_b32", "st.shared.s32 [$0], $1;", (), (_U, _I), memory=True)
sts_u16 = asm_op("sts_u16", "st.shared.u16 [$0], $1;", (), (_U, _H), memory=True)
sts_v4_f32 = asm_op(
    "sts_v4_f32", "st.shared.v4.f32 [$0], {$1,$2,$3,$4};", (), (_U,) + (_F,) * 4, memory=True
)
sts_f32 = asm_op("sts_f32", "st.shared.f32 [$0], $1;", (), (_U, _F), memory=True)

# Copies of 16 bytes from global (int64) to shared (uint32) memory behind the thread's back. A
# thread sees its copies after `wait` of all but the newest 0, 1, 2 groups, others after a barrier.

cp_async16 = asm_op(
    "cp_async16", "cp.async.cg.shared.global [$0], [$1], 16;", (), (_U, _L), memory=True
)
# (target, source, bytes): the rest of the 16 bytes is zero
cp_async16_fill = asm_op(
    "cp_async16_fill",
    "cp.async.cg.shared.global [$0], [$1], 16, $2;",
    (),
    (_U, _L, _I),
    memory=True,
)
cp_async_commit = asm_op("cp_async_commit", "cp.async.commit_group;", (), (), memory=True)
cp_async_wait0 = asm_op("cp_async_wait0", "cp.async.wait_group 0;", (), (), memory=True)
cp_async_wait1 = asm_op("cp_async_wait1", "cp.async.wait_group 1;", (), (), memory=True)
cp_async_wait2 = asm_op("cp_async_wait2", "cp.async.wait_group 2;", (), (), memory=True)

# (address, bytes, both multiples of 16): bring global memory into L2; nothing is waited for.
prefetch_bulk = asm_op(
    "prefetch_bulk", "cp.async.bulk.prefetch.L2.global [$0], $1;", (), (_L, _I), memory=True
)

# Conversions. 16-bit floats are uint16 bits; pairs are packed into int32, the first one low.

h2f = asm_op("h2f", "cvt.f32.f16 $0, $1;", (_F,), (_H,))
f2h = asm_op("f2h", "cvt.rn.f16.f32 $0, $1;", (_H,), (_F,))
bf2f = asm_op("bf2f", "mov.b32 $0, {0, $1};", (_F,), (_H,))
f2bf = asm_op("f2bf", "cvt.rn.bf16.f32 $0, $1;", (_H,), (_F,))
pack_f16 = asm_op("pack_f16", "cvt.rn.f16x2.f32 $0, $2, $1;", (_I,), (_F, _F))
pack_bf16 = asm_op("pack_bf16", "cvt.rn.bf16x2.f32 $0, $2, $1;", (_I,), (_F, _F))
unpack_f16 = asm_op(
    "unpack_f16",
    "{.reg .b16 lo, hi; mov.b32 {lo, hi}, $2; cvt.f32.f16 $0, lo; cvt.f32.f16 $1, hi;}",
    (_F, _F),
    (_I,),
)
unpack_bf16 = asm_op(
    "unpack_bf16",
    "{.reg .b16 lo, hi; mov.b32 {lo, hi}, $2; mov.b32 $0, {0, lo}; mov.b32 $1, {0, hi};}",
    (_F, _F),
    (_I,),
)
# nearest, ties to even; saturates, NaN gives 0
f2i_rn = asm_op("f2i_rn", "cvt.rni.s32.f32 $0, $1;", (_I,), (_F,))
rint = asm_op("rint", "cvt.rni.f32.f32 $0, $1;", (_F,), (_F,))
i2f = asm_op("i2f", "cvt.rn.f32.s32 $0, $1;", (_F,), (_I,))
f32_bits = bitcast_op(_F, _I)
bits_f32 = bitcast_op(_I, _F)

# Float arithmetic that no compiler contracts or reorders; subnormals are kept.

fma_rn = asm_op("fma_rn", "fma.rn.f32 $0, $1, $2, $3;", (_F,), (_F, _F, _F))
mul_rn = asm_op("mul_rn", "mul.rn.f32 $0, $1, $2;", (_F,), (_F, _F))
add_rn = asm_op("add_rn", "add.rn.f32 $0, $1, $2;", (_F,), (_F, _F))
sub_rn = asm_op("sub_rn", "sub.rn.f32 $0, $1, $2;", (_F,), (_F, _F))
# a NaN operand loses against a number
fmax = asm_op("fmax", "max.f32 $0, $1, $2;", (_F,), (_F, _F))
fmin = asm_op("fmin", "min.f32 $0, $1, $2;", (_F,), (_F, _F))

# Bits. prmt: byte i of the result is byte (nibble i of the selector) & 7 of {b, a}; bit 3 of the
# nibble spreads that byte's sign.

prmt = asm_op("prmt", "prmt.b32 $0, $1, $2, $3;", (_I,), (_I, _I, _I))
popc = asm_op("popc", "popc.b32 $0, $1;", (_I,), (_I,))
clz = asm_op("clz", "clz.b32 $0, $1;", (_I,), (_I,))

# Whole warps: every lane must arrive. Shuffles give lane ^ m, lane m, lane + m (own value past 31).

_WARP = "31, 0xffffffff;"
shfl_xor_i32 = asm_op("shfl_xor_i32", f"shfl.sync.bfly.b32 $0, $1, $2, {_WARP}", (_I,), (_I, _I))
shfl_xor_f32 = asm_op("shfl_xor_f32", f"shfl.sync.bfly.b32 $0, $1, $2, {_WARP}", (_F,), (_F, _I))
shfl_i32 = asm_op("shfl_i32", f"shfl.sync.idx.b32 $0, $1, $2, {_WARP}", (_I,), (_I, _I))
shfl_f32 = asm_op("shfl_f32", f"shfl.sync.idx.b32 $0, $1, $2, {_WARP}", (_F,), (_F, _I))
shfl_down_i32 = asm_op("shfl_down_i32", f"shfl.sync.down.b32 $0, $1, $2, {_WARP}", (_I,), (_I, _I))
shfl_down_f32 = asm_op("shfl_down_f32", f"shfl.sync.down.b32 $0, $1, $2, {_WARP}", (_F,), (_F, _I))
redux_add = asm_op("redux_add", "redux.sync.add.s32 $0, $1, 0xffffffff;", (_I,), (_I,))
redux_max = asm_op("redux_max", "redux.sync.max.s32 $0, $1, 0xffffffff;", (_I,), (_I,))
redux_min = asm_op("redux_min", "redux.sync.min.s32 $0, $1, 0xffffffff;", (_I,), (_I,))
redux_or = asm_op("redux_or", "redux.sync.or.b32 $0, $1, 0xffffffff;", (_I,), (_I,))
ballot = asm_op(
    "ballot",
    "{.reg .pred p; setp.ne.s32 p, $1, 0; vote.sync.ballot.b32 $0, p, 0xffffffff;}",
    (_I,),
    (_I,),
)

# Integer counters in global memory (address, value) -> the old value; ordered with other memory.

atom_add = asm_op(
    "atom_add", "atom.acq_rel.gpu.global.add.u32 $0, [$1], $2;", (_U,), (_L, _U), memory=True
)
atom_max = asm_op(
    "atom_max", "atom.acq_rel.gpu.global.max.s32 $0, [$1], $2;", (_I,), (_L, _I), memory=True
)

# A dependent launch: `depend` waits for the kernel before and its writes, `release` lets the next
# one start early.

depend = asm_op("depend", "griddepcontrol.wait;", (), (), memory=True)
release = asm_op("release", "griddepcontrol.launch_dependents;", (), (), memory=True)
