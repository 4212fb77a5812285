"""Formats of 256-value blocks: integer sums over sub-blocks with integer scales, then f32 steps.

Activations come as blocks of 256 int8 values, one f32 scale, and sums of 16 and of 32 values split
in bytes (sum = low + 128 * high), so that minima and biases are byte dot products too. All of a
block lies together: a kernel then needs one address per row. What a panel's vectors mean is the
format's own (`planes`, `tables`); here are the loops over them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir as llvm_ir

from engine.ops.cpu.formats.leaves import Leaves, make
from engine.ops.cpu.simd.ir import F32, I16, I32, I64, vec

SLAB = 8  # blocks that a call covers; sized for the L1 cache, no part of the arithmetic
# Offsets in a block of activations, after its 256 values.
LOW16, HIGH16, LOW32, HIGH32, X_SCALE, X_BYTES = 256, 272, 288, 296, 304, 320
WIDE = 128  # the bias of codes that fill a byte
# Bytes of a panel between the request and the use of what may come from memory: within a block a
# panel is not read in the order of its addresses, which the prefetcher does not follow.
_AHEAD = 6144
_MANY = 8  # rows of x to which panels come from a cache
ROUNDS = 4  # of the loop over a block's codes


@dataclass(frozen=True, slots=True)
class Header:
    """What stands beside a block's codes, as vectors of 16 rows.

    Parameters
    ----------
    d : vector of f32
        Factor of the scales.
    scales : list of int32 vectors, or None
        Four sub-blocks' scales in the bytes of each; None where all are 1.
    dmin, minima : the same of the minima, or None
    """

    d: Any
    scales: list | None
    dmin: Any = None
    minima: list | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """A format of this family.

    Parameters
    ----------
    vectors : int
        64-byte vectors of 16 rows of a block.
    sub : int
        Values that share a scale, 16 or 32.
    header : callable
        ``header(ir, base)`` gives a `Header`.
    runs : callable
        ``runs(ir, base, p)`` yields for round p of ROUNDS (an i64) the sub-blocks: index of the
        first value (an i64), and per four values a callable that gives a vector of bytes.
    order : list of int
        Numbers of the sub-blocks in the order in which the rounds meet them.
    bias : int
        What is subtracted from every code; `WIDE` where codes fill a byte, otherwise both are at
        most 127.
    signed : bool
        Whether the bytes of the scales are signed.
    pack : callable
        Emitting function of `Leaves.pack`.
    """

    vectors: int
    sub: int
    header: Callable
    runs: Callable
    order: list[int]
    bias: int
    pack: Callable
    signed: bool = False

    @property
    def panel(self) -> int:
        return 64 * self.vectors


def stage(ir, vectors):
    """Put vectors on the stack so that a loop can index them; returns the address."""
    with ir.b.goto_entry_block():
        slot = ir.b.alloca(llvm_ir.ArrayType(vectors[0].type, len(vectors)))
        slot.align = 64
    base = ir.b.ptrtoint(slot, I64)
    for i, v in enumerate(vectors):
        ir.store(v, ir.at(base, 64 * i), 64)
    return base


def half_at(ir, dwords, i: int):
    """f16 in the low (0) or high (1) half of every lane."""
    return ir.from_half(ir.b.trunc(ir.shr(dwords, 16 * i), vec(I16)))


def ones(n: int, ir) -> list:
    """Scales of 1 for n sub-blocks."""
    return [ir.const(0x01010101, vec(I32))] * (n // 4)


def _in_order(form: Form, packed, convert):
    """The sub-blocks' bytes in the order in which the rounds meet them."""
    return [convert(packed[s // 4], s % 4) for s in form.order]


def weighted_sums(ir, xs, weights, low: int, high: int, signed: bool = False):
    """Per row, the sum over sub-blocks of weight * sum(x); weights are vectors of four bytes."""
    b = ir.b
    lift = signed and ir.biased
    out = []
    for at in xs:
        parts = []
        for offset in (low, high):
            total = more = ir.const(0, vec(I32))
            for g, w in enumerate(weights):
                x = ir.x_bytes(ir.at(at, offset + 4 * g))
                if signed:
                    w = b.xor(w, ir.const(-0x7F7F7F80, vec(I32)))
                    total = ir.dot_wide(total, ir.as_bytes(w), x)
                    if lift:
                        more = ir.dot(more, ir.const(1, x.type), x)
                else:
                    total = ir.dot(total, ir.as_bytes(w), x)
            if lift:
                total = b.sub(total, b.shl(more, ir.const(7, vec(I32))))
            parts.append(total)
        out.append(b.add(parts[0], b.shl(parts[1], ir.const(7, vec(I32)))))
    return out


def _totals(ir, form: Form, base, xs, scales):
    """Per row, the sum over sub-blocks of scale * dot(codes, x), in int32, biases left in."""
    b = ir.b
    dot = ir.dot_wide if form.bias == WIDE else ir.dot
    slots = [ir.var(ir.const(0, vec(I32))) for _ in xs]
    n_runs = len(form.order) // ROUNDS
    with ir.loop(ROUNDS) as p:
        for r, (first, codes) in enumerate(form.runs(ir, base, p)):
            at = [b.add(x, first) for x in xs]
            ints = [ir.const(0, vec(I32))] * len(xs)
            if scales is None:
                ints = [b.load(slot) for slot in slots]
            for q, code in enumerate(codes):
                w = code()
                for t, x in enumerate(at):
                    ints[t] = dot(ints[t], w, ir.x_bytes(ir.at(x, 4 * q)))
            if scales is not None:
                scale = ir.load(ir.at(scales, (p, 64 * n_runs), 64 * r), vec(I32), 64)
                ints = [b.add(b.load(slot), b.mul(i, scale)) for slot, i in zip(slots, ints)]
            for slot, total in zip(slots, ints, strict=True):
                b.store(total, slot)
    return [b.load(slot) for slot in slots]


def exact_sums(ir, form: Form, base, xs, head: Header):
    """Per row, the sum over sub-blocks of scale * dot(codes - bias, x), in int32."""
    b = ir.b
    staged = None
    if head.scales is not None:
        staged = stage(ir, _in_order(form, head.scales, lambda v, k: ir.byte(v, k, form.signed)))
    totals = _totals(ir, form, base, xs, staged)
    bias = form.bias
    if bias == WIDE and not ir.biased:
        bias = 0
    if not bias:
        return totals
    scales = ones(256 // form.sub, ir) if head.scales is None else head.scales
    places = (LOW16, HIGH16) if form.sub == 16 else (LOW32, HIGH32)
    lifts = weighted_sums(ir, xs, scales, *places, form.signed)
    return [b.sub(s, b.mul(m, ir.const(bias, vec(I32)))) for s, m in zip(totals, lifts)]


def _emit_dot(form: Form):
    """Per block and row: acc = fma(float(integer), dw * dx, acc), first scales, then minima."""

    def of(n):
        def emit(ir, acc, panel, xt, b0, nb):
            b = ir.b
            rows = [ir.at(ir.load(ir.at(xt, 8 * t), I64), (b0, X_BYTES)) for t in range(n)]
            slots = [ir.var(ir.load(ir.at(acc, 64 * t), vec(F32), 64)) for t in range(n)]
            with ir.loop(nb) as i:
                xs = [ir.at(row, (i, X_BYTES)) for row in rows]
                base = ir.at(panel, (i, form.panel))
                if n < _MANY:
                    ir.ask(ir.at(base, _AHEAD), form.panel)
                head = form.header(ir, base)
                terms = [(exact_sums(ir, form, base, xs, head), head.d)]
                if head.minima is not None:
                    places = (LOW16, HIGH16) if form.sub == 16 else (LOW32, HIGH32)
                    low = weighted_sums(ir, xs, head.minima, *places)
                    terms.append((low, b.fneg(head.dmin)))
                for t, slot in enumerate(slots):
                    dx = ir.splat(ir.load(ir.at(xs[t], X_SCALE), F32, 4))
                    for sums, scale in terms:
                        step = ir.fma(ir.floats(sums[t]), b.fmul(scale, dx), b.load(slot))
                        b.store(step, slot)
            for t, slot in enumerate(slots):
                ir.store(b.load(slot), ir.at(acc, 64 * t), 64)

        return emit

    return of


def _emit_decode(form: Form):
    def emit(ir, panel, nb, out):
        b = ir.b
        n_runs = len(form.order) // ROUNDS

        def floats(factor, packed, signed):
            def convert(v, k):
                return b.fmul(factor, ir.floats(ir.byte(v, k, signed)))

            return stage(ir, _in_order(form, packed, convert))

        with ir.loop(nb) as i:
            base = ir.at(panel, (i, form.panel))
            head = form.header(ir, base)
            bias = ir.const(form.bias, vec(I32))
            ds = floats(head.d, head.scales, form.signed) if head.scales else None
            ms = floats(head.dmin, head.minima, False) if head.minima else None
            with ir.loop(ROUNDS) as p:
                for r, (first, codes) in enumerate(form.runs(ir, base, p)):
                    here = (p, 64 * n_runs), 64 * r
                    scale = ir.load(ir.at(ds, *here), vec(F32), 64) if ds else head.d
                    low = ir.load(ir.at(ms, *here), vec(F32), 64) if ms else None
                    at = ir.at(out, (i, 256 * 64), (first, 64))
                    for q, code in enumerate(codes):
                        four = ir.as_dwords(code())
                        for k in range(4):
                            value = b.fmul(scale, ir.floats(b.sub(ir.byte(four, k), bias)))
                            value = value if low is None else b.fsub(value, low)
                            ir.store(value, ir.at(at, 64 * (4 * q + k)), 64)

    return emit


def emit_pack_dwords(block_bytes: int):
    """Emitting function of a pack that keeps a block's dwords as in the file.

    Two bytes that are left over at the end become the low half of a last dword.
    """
    quads, rest = divmod(block_bytes // 4, 4)
    n_vectors = -(-block_bytes // 4)

    def emit(ir, src, stride, n_rows, nb, panel):
        def block(i, here):
            at = ir.at(panel, (i, 64 * n_vectors))
            for quad in range(quads):
                for q, dwords in enumerate(ir.transpose4(here, 16 * quad)):
                    ir.store(dwords, ir.at(at, 256 * quad + 64 * q), 64)
            for k in range(4 * quads, 4 * quads + rest):
                for r, row in enumerate(here):
                    ir.store(ir.load(ir.at(row, 4 * k), I32), ir.at(at, 64 * k + 4 * r), 4)
            if block_bytes % 4:
                k = n_vectors - 1
                for r, row in enumerate(here):
                    last = ir.b.zext(ir.load(ir.at(row, 4 * k), I16), I32)
                    ir.store(last, ir.at(at, 64 * k + 4 * r), 4)

        ir.each_block(src, stride, n_rows, nb, block_bytes, block)

    return emit


def leaves_of(name: str, form: Form) -> Leaves:
    return make(name, form.panel, SLAB, _emit_dot(form), _emit_decode(form), form.pack)


# -- the order of codes in blocks


def nibble_runs(first_vector: int, sub: int, convert):
    """Runs over 32 vectors of nibbles: in vectors 8c.., low ones are values 64c.., high 64c + 32...

    ``convert(ir, nibbles, base, p, half, j)`` gives the bytes of vector j of eight.
    """

    def runs(ir, base, p):
        codes = ir.at(base, 64 * first_vector, (p, 512))
        per = sub // 4

        def code(half, j):
            v = ir.load(ir.at(codes, 64 * j), vec(I32), 64)
            return convert(ir, ir.mask(ir.shr(v, 4 * half), 0x0F0F0F0F), base, p, half, j)

        for half in range(2):
            for part in range(32 // sub):
                first = ir.at(ir.b.shl(p, ir.c(6)), 32 * half + sub * part)
                js = range(per * part, per * part + per)
                yield first, [lambda j=j, half=half: code(half, j) for j in js]

    return runs


# Round p of `plane_runs` meets, at j, these sub-blocks of 16.
PLANE_ORDER = [8 * (p >> 1) + 2 * j + (p & 1) for p in range(4) for j in range(4)]


def plane_runs(code):
    """Runs over two-bit planes: round p = 2 * half + odd takes values 128 half + 32 j + 16 odd...

    ``code(ir, base, half, odd, j, q)`` gives the bytes of the four values from 4q on; half and odd
    are i64 values.
    """

    def runs(ir, base, p):
        b = ir.b
        half, odd = b.lshr(p, ir.c(1)), b.and_(p, ir.c(1))
        start = b.add(b.shl(half, ir.c(7)), b.shl(odd, ir.c(4)))
        for j in range(4):
            made = [lambda j=j, q=q: code(ir, base, half, odd, j, q) for q in range(4)]
            yield ir.at(start, 32 * j), made

    return runs
