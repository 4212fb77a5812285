"""Sixteen-lane vectors inside numba code: loads, fused products and one fixed tree of sums.

numba has no vector type and will not reorder float sums, so a kernel that needs lanes says so
with these. LLVM splits the vectors where registers are narrower; the bits stay the same.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

from engine.ops.cpu.simd import ir as simd

LANES = 16

_i8, _i32, _i64, _f32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
# LLVM types of one register's worth: sixteen float32, sixteen int32, their 64 bytes.
_FLOATS = ir.VectorType(_f32, LANES)
_INTS = ir.VectorType(_i32, LANES)
_BYTES = ir.VectorType(_i8, 4 * LANES)


class _Lanes(types.Type):
    def __init__(self, element: str, vector: ir.VectorType) -> None:
        super().__init__(name=f"{element}x{LANES}")
        self.vector = vector


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.vector)


f32x16 = _Lanes("float32", _FLOATS)
i32x16 = _Lanes("int32", _INTS)


def _mask(indices):
    return ir.Constant(ir.VectorType(_i32, len(indices)), list(indices))


def _splat(builder, value, vector_type):
    undefined = ir.Constant(vector_type, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(_i32, 0))
    return builder.shuffle_vector(one, undefined, _mask([0] * vector_type.count))


def _pointer(context, builder, array_type, array, offset, vector_type):
    """Address of element `offset` of a C-contiguous array, counted over all its axes."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), vector_type.as_pointer())


def _is_flat(array, dtype):
    return isinstance(array, types.Array) and array.dtype == dtype and array.layout == "C"


@intrinsic
def bits_of(typingctx, x):
    """The 32 bits of a float32 as int32."""
    if x != types.float32:
        return None
    return types.int32(types.float32), lambda context, builder, sig, args: builder.bitcast(
        args[0], _i32
    )


@intrinsic
def float_of(typingctx, n):
    """The float32 that the low 32 bits of an integer are."""
    if not isinstance(n, types.Integer):
        return None

    def codegen(context, builder, sig, args):
        n = args[0]
        if sig.args[0].bitwidth > 32:
            n = builder.trunc(n, _i32)
        return builder.bitcast(n, _f32)

    return types.float32(n), codegen


@intrinsic
def address(typingctx, array):
    """Address of an array's first element; the array must outlive every use of it."""
    sig = types.int64(array)

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, _i64)

    return sig, codegen


@intrinsic
def load_at(typingctx, where):
    """Sixteen float32 at an address."""
    sig = f32x16(types.int64)

    def codegen(context, builder, sig, args):
        return builder.load(builder.inttoptr(args[0], _FLOATS.as_pointer()), align=4)

    return sig, codegen


@intrinsic
def prefetch_at(typingctx, where):
    """Ask for the cache line at an address; never faults."""
    sig = types.void(types.int64)

    def codegen(context, builder, sig, args):
        pointer = ir.PointerType(_i8)
        kind = ir.FunctionType(ir.VoidType(), [pointer, _i32, _i32, _i32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, keep, data = (ir.Constant(_i32, v) for v in (0, 3, 1))
        builder.call(function, [builder.inttoptr(args[0], pointer), read, keep, data])
        return context.get_dummy_value()

    return sig, codegen


@intrinsic
def load(typingctx, array, offset):
    """Sixteen values from element `offset` on: float32, or int32 (also four bytes per lane)."""
    if _is_flat(array, types.float32):
        sig, vector = f32x16(array, types.int64), _FLOATS
    elif _is_flat(array, types.int32) or _is_flat(array, types.uint8):
        sig, vector = i32x16(array, types.int64), _INTS
    else:
        return None

    def codegen(context, builder, sig, args):
        where = _pointer(context, builder, sig.args[0], args[0], args[1], vector)
        return builder.load(where, align=1 if sig.args[0].dtype == types.uint8 else 4)

    return sig, codegen


@intrinsic
def at(typingctx, array, offset):
    """Element `offset` of a C-contiguous array; no check for a negative index."""
    if not isinstance(array, types.Array) or array.layout != "C":
        return None
    sig = array.dtype(array, types.int64)

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.load(builder.gep(data, [args[1]]))

    return sig, codegen


@intrinsic
def store(typingctx, array, offset, value):
    """Write sixteen float32 from element `offset` on."""
    if not _is_flat(array, types.float32) or value != f32x16:
        return None
    sig = types.void(array, types.int64, f32x16)

    def codegen(context, builder, sig, args):
        where = _pointer(context, builder, sig.args[0], args[0], args[1], _FLOATS)
        builder.store(args[2], where, align=4)
        return context.get_dummy_value()

    return sig, codegen


@intrinsic
def store_quarters(typingctx, array, offset, stride, value):
    """Write lanes 4*i .. 4*i+3 from element ``offset + i*stride`` on, for i = 0..3."""
    if not _is_flat(array, types.float32) or value != f32x16:
        return None
    sig = types.void(array, types.int64, types.int64, f32x16)
    quarter = ir.VectorType(_f32, 4)

    def codegen(context, builder, sig, args):
        offset = args[1]
        for i in range(4):
            lanes = _mask(range(4 * i, 4 * i + 4))
            part = builder.shuffle_vector(args[3], ir.Constant(_FLOATS, ir.Undefined), lanes)
            where = _pointer(context, builder, sig.args[0], args[0], offset, quarter)
            builder.store(part, where, align=4)
            offset = builder.add(offset, args[2])
        return context.get_dummy_value()

    return sig, codegen


@intrinsic
def splat(typingctx, value):
    """The same float32 (or int32) in every lane."""
    if value == types.float32:
        sig, vector = f32x16(types.float32), _FLOATS
    elif value == types.int32:
        sig, vector = i32x16(types.int32), _INTS
    else:
        return None

    def codegen(context, builder, sig, args):
        return _splat(builder, args[0], vector)

    return sig, codegen


@intrinsic
def zero(typingctx):
    sig = f32x16()

    def codegen(context, builder, sig, args):
        return ir.Constant(_FLOATS, [0.0] * LANES)

    return sig, codegen


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c per lane, rounded once."""
    if (a, b, c) != (f32x16, f32x16, f32x16):
        return None
    sig = f32x16(f32x16, f32x16, f32x16)

    def codegen(context, builder, sig, args):
        kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
        return builder.call(
            cgutils.get_or_insert_function(builder.module, kind, "llvm.fma.v16f32"), args
        )

    return sig, codegen


def _binary(name, doc):
    def typed(typingctx, a, b):
        if (a, b) != (f32x16, f32x16):
            return None

        def codegen(context, builder, sig, args):
            return getattr(builder, name)(*args)

        return f32x16(f32x16, f32x16), codegen

    typed.__name__ = name
    typed.__doc__ = doc
    return intrinsic(typed)


add = _binary("fadd", "a + b per lane.")
sub = _binary("fsub", "a - b per lane.")
mul = _binary("fmul", "a * b per lane.")


@intrinsic
def relu(typingctx, a):
    """0 where a < 0, else a; NaN stays."""
    if a != f32x16:
        return None
    sig = f32x16(f32x16)

    def codegen(context, builder, sig, args):
        nothing = ir.Constant(_FLOATS, [0.0] * LANES)
        return builder.select(builder.fcmp_ordered("<", args[0], nothing), nothing, args[0])

    return sig, codegen


@intrinsic
def to_float(typingctx, a):
    """int32 lanes to float32."""
    if a != i32x16:
        return None
    sig = f32x16(i32x16)

    def codegen(context, builder, sig, args):
        return builder.sitofp(args[0], _FLOATS)

    return sig, codegen


@intrinsic
def dot4(typingctx, total, unsigned, signed):
    """total + the sum over each lane's four bytes of unsigned * signed, in int32 (exact).

    Unsigned bytes are at most 127.
    """
    if (total, unsigned, signed) != (i32x16, i32x16, i32x16):
        return None
    sig = i32x16(i32x16, i32x16, i32x16)

    def codegen(context, builder, sig, args):
        total, unsigned, signed = args
        u, s = (builder.bitcast(v, _BYTES) for v in (unsigned, signed))
        return simd.Ir(builder, simd.isa(), half=False).dot(total, u, s)

    return sig, codegen


@intrinsic
def maximum(typingctx, a, b):
    """b where b > a, else a."""
    if (a, b) != (f32x16, f32x16):
        return None

    def codegen(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered(">", args[1], args[0]), args[1], args[0])

    return f32x16(f32x16, f32x16), codegen


@intrinsic
def max_lanes(typingctx, a):
    """Greatest lane."""
    if a != f32x16:
        return None
    sig = types.float32(f32x16)

    def codegen(context, builder, sig, args):
        v = args[0]
        for step in (8, 4, 2, 1):
            other = builder.shuffle_vector(v, v, _mask([lane ^ step for lane in range(LANES)]))
            v = builder.select(builder.fcmp_ordered(">", other, v), other, v)
        return builder.extract_element(v, ir.Constant(_i32, 0))

    return sig, codegen


@intrinsic
def hadamard_lanes(typingctx, a):
    """Unscaled 16-point Walsh-Hadamard transform of the lanes, natural order."""
    if a != f32x16:
        return None
    sig = f32x16(f32x16)

    def codegen(context, builder, sig, args):
        v = args[0]
        for step in (1, 2, 4, 8):
            other = builder.shuffle_vector(v, v, _mask([lane ^ step for lane in range(LANES)]))
            upper = ir.Constant(
                ir.VectorType(ir.IntType(1), LANES), [int(lane & step > 0) for lane in range(LANES)]
            )
            v = builder.select(upper, builder.fsub(other, v), builder.fadd(v, other))
        return v

    return sig, codegen


def _fold(builder, a, b, width):
    """Halve runs of `width` lanes of a and b: lane i of a run plus lane i + width/2.

    With b given, a's and b's folded runs end up side by side.
    """
    half = width // 2
    low, high = [], []
    for vector in (0, LANES):
        for start in range(0, LANES, width):
            low += range(vector + start, vector + start + half)
            high += range(vector + start + half, vector + start + width)
    return builder.fadd(
        builder.shuffle_vector(a, b, _mask(low)), builder.shuffle_vector(a, b, _mask(high))
    )


@intrinsic
def sum_lanes(typingctx, a):
    """Sum of the lanes: i + (i+8), then +4, +2, +1. The one tree that every dot uses."""
    if a != f32x16:
        return None
    sig = types.float32(f32x16)

    def codegen(context, builder, sig, args):
        v = args[0]
        for width in (16, 8, 4, 2):
            v = _fold(builder, v, v, width)
        return builder.extract_element(v, ir.Constant(_i32, 0))

    return sig, codegen


@intrinsic
def sum_lanes_of_16(typingctx, vectors):
    """Sixteen `sum_lanes` at once: lane i is the sum of vector i's lanes, by the same tree."""
    if not (isinstance(vectors, types.UniTuple) and vectors.count == LANES):
        return None
    sig = f32x16(vectors)

    def codegen(context, builder, sig, args):
        work = [builder.extract_value(args[0], i) for i in range(LANES)]
        for width in (16, 8, 4, 2):
            pairs = len(work) // 2
            work = [_fold(builder, work[2 * i], work[2 * i + 1], width) for i in range(pairs)]
        return work[0]

    return sig, codegen
