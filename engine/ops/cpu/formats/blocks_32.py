"""Formats of 32-value blocks with f32 steps: panels and integer products, parametric in the code.

A panel is one stream: the scales of as many blocks as fill 64 bytes, then those blocks' codes, so
that a core reads one run of addresses. Values come out as unsigned bytes above a bias, four
consecutive values of 16 rows a vector, eight vectors a block. Q4_1 and Q5_1 store an f16 offset
beside the scale; it meets the sum of the activations in a second step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.ops.cpu.formats.leaves import Leaves, make
from engine.ops.cpu.simd.ir import F32, I8, I16, I32, I64, LANES, vec

# Offsets in a block of activations, after its 32 values: the f32 scale, and -128 * their sum.
X_SCALE, X_LIFT, X_BYTES = 32, 36, 40
SLAB = 64  # blocks that a call covers; sized for the L1 cache, no part of the arithmetic
WIDE = 128  # the bias of codes that fill a byte


@dataclass(frozen=True, slots=True)
class Form:
    """A format of this family.

    Parameters
    ----------
    block_bytes : int
        In the file.
    head : int
        Bytes of the scales (and offsets) of 16 rows, 16, 32 or 64.
    vectors : int
        64-byte vectors of codes of a block.
    bias : int
        What is subtracted from every code; 128 where codes fill a byte.
    scale : callable
        ``scale(ir, head)`` gives the f32 scales.
    codes : callable
        ``codes(ir, body)`` gives eight vectors of bytes.
    pack : callable
        ``pack(ir, rows, head, body)`` writes one block; rows are the addresses of 16 blocks.
    offset : bool
        Whether f16 offsets lie behind the scales.
    """

    block_bytes: int
    head: int
    vectors: int
    bias: int
    scale: Callable
    codes: Callable
    pack: Callable
    offset: bool = False

    @property
    def panel(self) -> int:
        return self.head + 64 * self.vectors

    def places(self, ir, panel, i):
        """Addresses of the scales and of the codes of block i."""
        group = 64 // self.head
        body = 64 * self.vectors
        if group == 1:
            head = ir.at(panel, (i, 64 + body))
            return head, ir.at(head, 64)
        outer = ir.b.lshr(i, ir.c(group.bit_length() - 1))
        inner = ir.b.and_(i, ir.c(group - 1))
        base = ir.at(panel, (outer, 64 + group * body))
        return ir.at(base, (inner, self.head)), ir.at(base, 64, (inner, body))


def _start(ir, form: Form, x):
    """The integer sum to begin with: what the bias adds to the products, taken off."""
    if form.bias == WIDE:
        if ir.biased:
            return ir.splat(ir.load(ir.at(x, X_LIFT), I32, 4))
    elif form.bias:
        return ir.splat(ir.b.mul(_minus_sum(ir, x), ir.c(form.bias, I32)))
    return ir.const(0, vec(I32))


def _minus_sum(ir, x):
    """Minus the sum of a block of activations, an i32."""
    return ir.b.ashr(ir.load(ir.at(x, X_LIFT), I32, 4), ir.c(7, I32))


def float_step(ir, form: Form, head, x, total, dx, acc):
    """acc after a block: scales at `head`, exact integer sums, the scale of x in every lane."""
    b = ir.b
    acc = ir.fma(ir.floats(total), b.fmul(form.scale(ir, head), dx), acc)
    if form.offset:
        whole = ir.splat(b.sitofp(b.neg(_minus_sum(ir, x)), F32))
        acc = ir.fma(whole, b.fmul(_halves(ir, ir.at(head, 32)), dx), acc)
    return acc


def _emit_dot(form: Form):
    """Emitting function of the dot for n rows.

    Per block and row: acc = fma(float(isum), dw * dx, acc), isum exact; with an offset m then
    acc = fma(float(sum of x), m * dx, acc).
    """

    def of(n):
        def emit(ir, acc, panel, xt, b0, nb):
            b = ir.b
            rows = [ir.at(ir.load(ir.at(xt, 8 * t), I64), (b0, X_BYTES)) for t in range(n)]
            sums = [ir.var(ir.load(ir.at(acc, 64 * t), vec(F32), 64)) for t in range(n)]
            chains = 2 if n == 1 else 1
            dot = ir.dot_wide if form.bias == WIDE else ir.dot
            with ir.loop(nb) as i:
                head, body = form.places(ir, panel, i)
                xs = [ir.at(row, (i, X_BYTES)) for row in rows]
                zero = ir.const(0, vec(I32))
                ints = [[_start(ir, form, x), *[zero] * (chains - 1)] for x in xs]
                for k, w in enumerate(form.codes(ir, body)):
                    for t in range(n):
                        x = ir.x_bytes(ir.at(xs[t], 4 * k))
                        ints[t][k % chains] = dot(ints[t][k % chains], w, x)
                for t, x in enumerate(xs):
                    total = ints[t][0] if chains == 1 else b.add(*ints[t])
                    dx = ir.splat(ir.load(ir.at(x, X_SCALE), F32, 4))
                    b.store(float_step(ir, form, head, x, total, dx, b.load(sums[t])), sums[t])
            for t in range(n):
                ir.store(b.load(sums[t]), ir.at(acc, 64 * t), 64)

        return emit

    return of


def _emit_decode(form: Form):
    def emit(ir, panel, nb, out):
        b = ir.b
        with ir.loop(nb) as i:
            head, body = form.places(ir, panel, i)
            scale = form.scale(ir, head)
            low = _halves(ir, ir.at(head, 32)) if form.offset else None
            bias = ir.const(form.bias, vec(I32))
            for q, w in enumerate(form.codes(ir, body)):
                codes = ir.as_dwords(w)
                for k in range(4):
                    value = b.fmul(scale, ir.floats(b.sub(ir.byte(codes, k), bias)))
                    if low is not None:
                        value = b.fadd(value, low)
                    ir.store(value, ir.at(out, (i, 32 * 64), 64 * (4 * q + k)), 64)

    return emit


def _emit_pack(form: Form):
    def emit(ir, src, stride, n_rows, nb, panel):
        def block(i, rows):
            form.pack(ir, rows, *form.places(ir, panel, i))

        ir.each_block(src, stride, n_rows, nb, form.block_bytes, block)

    return emit


# -- scales


def _halves(ir, at):
    return ir.from_half(ir.load(at, vec(I16), 32))


def _exponents(ir, at):
    """Half of 2**(e - 127): an exponent below 2 gives a denormal."""
    b, of = ir.b, vec(I32)
    e = b.zext(ir.load(at, vec(I8), 16), of)
    normal = b.shl(b.sub(e, ir.const(1, of)), ir.const(23, of))
    first = ir.const(0x00200000, of)
    zero = b.icmp_unsigned("==", e, ir.const(0, of))
    denormal = b.select(zero, first, b.add(first, first))
    tiny = b.icmp_unsigned("<", e, ir.const(2, of))
    return b.bitcast(b.select(tiny, denormal, normal), vec(F32))


# -- codes


def _bytes(ir, body):
    return [ir.as_bytes(ir.load(ir.at(body, 64 * k), vec(I32), 64)) for k in range(8)]


def _nibbles(ir, body):
    """Low nibbles are values 0..15 of a block, high ones 16..31."""
    four = [ir.load(ir.at(body, 64 * k), vec(I32), 64) for k in range(4)]
    return [ir.as_bytes(ir.mask(ir.shr(v, s), 0x0F0F0F0F)) for s in (0, 4) for v in four]


def _looked_up(table):
    def codes(ir, body):
        return [ir.lookup(table, nibbles) for nibbles in _nibbles(ir, body)]

    return codes


def _with_fifth_bit(ir, body):
    """Nibbles, and a fifth bit from bit k of each byte of the last vector; see `_spread`."""
    b = ir.b
    high = ir.load(ir.at(body, 256), vec(I32), 64)
    out = []
    for k, low in enumerate(_nibbles(ir, body)):
        moved = ir.shr(high, k - 4) if k > 4 else b.shl(high, ir.const(4 - k, vec(I32)))
        out.append(b.or_(low, ir.as_bytes(ir.mask(moved, 0x10101010))))
    return out


# -- packing


def _put_scales(ir, rows, head, offset: bool = False):
    for part in range(1 + offset):
        for r, row in enumerate(rows):
            ir.store(ir.load(ir.at(row, 2 * part), I16), ir.at(head, 32 * part, 2 * r), 2)


def _pack_bytes(ir, rows, head, body):
    _put_scales(ir, rows, head)
    for half in range(2):
        for q, v in enumerate(ir.transpose4(rows, 2 + 16 * half)):
            biased = ir.b.xor(v, ir.const(-0x7F7F7F80, vec(I32)))
            ir.store(biased, ir.at(body, 256 * half + 64 * q), 64)


def _pack_mxfp4(ir, rows, head, body):
    for r, row in enumerate(rows):
        ir.store(ir.load(row, I8), ir.at(head, r))
    _put_nibbles(ir, rows, 1, body)


def _put_nibbles(ir, rows, at: int, body):
    for q, codes in enumerate(ir.transpose4(rows, at)):
        ir.store(codes, ir.at(body, 64 * q), 64)


def _spread(ir, bits):
    """Move bit 4k + j of every dword to bit 8j + k: vector k of the codes needs the bits 4k..."""
    b, of = ir.b, vec(I32)
    out = ir.const(0, of)
    for k in range(8):
        four = b.mul(ir.mask(ir.shr(bits, 4 * k), 15), ir.const(0x00204081, of))
        out = b.or_(out, b.shl(ir.mask(four, 0x01010101), ir.const(k, of)))
    return out


def _pack_nibbles(offset: bool = False, fifth: bool = False):
    def pack(ir, rows, head, body):
        _put_scales(ir, rows, head, offset)
        at = 4 if offset else 2
        if fifth:
            for r, row in enumerate(rows):
                ir.store(ir.load(ir.at(row, at), I32), ir.at(body, 256 + 4 * r), 4)
            where = ir.at(body, 256)
            ir.store(_spread(ir, ir.load(where, vec(I32), 64)), where, 64)
        _put_nibbles(ir, rows, at + 4 * fifth, body)

    return pack


# Twice the e2m1 values (OCP Microscaling Formats 1.0), above a bias; the scale is halved instead.
_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12)
E2M1_BIAS = 12
E2M1_TABLE = [E2M1_BIAS + m for m in _E2M1] + [E2M1_BIAS - m for m in _E2M1]
# The values of IQ4_NL and IQ4_XS (source: `gguf.quants.IQ4_NL.kvalues`), above 128.
IQ4_TABLE = [
    WIDE + v
    for v in (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
]  # fmt: skip

_HALF = 2 * LANES
FORMS = {
    "Q8_0": Form(34, _HALF, 8, WIDE, _halves, _bytes, _pack_bytes),
    "MXFP4": Form(17, LANES, 4, E2M1_BIAS, _exponents, _looked_up(E2M1_TABLE), _pack_mxfp4),
    "IQ4_NL": Form(18, _HALF, 4, WIDE, _halves, _looked_up(IQ4_TABLE), _pack_nibbles()),
    "Q4_0": Form(18, _HALF, 4, 8, _halves, _nibbles, _pack_nibbles()),
    "Q4_1": Form(20, 2 * _HALF, 4, 0, _halves, _nibbles, _pack_nibbles(True), True),
    "Q5_0": Form(22, _HALF, 5, 16, _halves, _with_fifth_bit, _pack_nibbles(fifth=True)),
    "Q5_1": Form(24, 2 * _HALF, 5, 0, _halves, _with_fifth_bit, _pack_nibbles(True, True), True),
}


def leaves(name: str) -> Leaves:
    """Leaves of a format of `FORMS`."""
    form = FORMS[name]
    return make(name, form.panel, SLAB, _emit_dot(form), _emit_decode(form), _emit_pack(form))
