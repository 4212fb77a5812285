"""One row of activations times formats of 256-value blocks; what codes are is the formats' own.

A block's 64 products of four values, times their sub-blocks' scales, are added to 16 lanes, and
16 rows' lanes across when a slab is done. Then come the float steps, whose order is the panels'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.ops.cpu.formats.blocks_256 import (
    HIGH16,
    HIGH32,
    LOW16,
    LOW32,
    WIDE,
    X_BYTES,
    X_SCALE,
)
from engine.ops.cpu.one_row.sums import lane_sums, put_lift, room, sums_of_fours
from engine.ops.cpu.simd.ir import F32, I8, I16, I32, LANES, vec

SLAB = 16  # blocks that a call covers; sized for the L1 cache, no part of the arithmetic
BYTES = vec(I8, 64)


@dataclass(frozen=True, slots=True)
class Form:
    """How a block of a row is read.

    Parameters
    ----------
    block_bytes : int
        In the file.
    codes : callable
        ``codes(ir, at, xs)`` yields four pairs of 64 unsigned bytes and 64 activations.
    scales : callable, or None
        ``scales(ir, at)`` gives a vector of 8 or 16 int32; None where all are 1.
    half : int, or callable
        Where the f16 factor is in the block; or ``half(ir, at)`` gives its bits, an i16.
    factor : float
        Of the f16 factor.
    bias : int
        What the codes lie above their values; `WIDE` where they fill a byte, otherwise they are
        at most 127.
    minima : callable, or None
        ``minima(ir, at)`` gives 16 bytes, those of 8 sub-blocks being followed by zeros.
    low_half : int
        Where the f16 factor of the minima is.
    by_16 : bool
        Whether minima belong to 16 values.
    """

    block_bytes: int
    codes: Callable
    scales: Callable | None
    half: int | Callable = 0
    factor: float = 1.0
    bias: int = 0
    minima: Callable | None = None
    low_half: int = 0
    by_16: bool = False


@dataclass(frozen=True, slots=True)
class _Held:
    """Addresses of what a slab leaves to its float steps: per block, 16 rows'."""

    sums: object
    halves: object
    low_halves: object
    minima: object


def _put_lifts(ir, x, nb, bias: int):
    """Minus the bias times each four activations' sum, 256 bytes a block."""
    lifts = room(ir, 256 * SLAB)
    with ir.loop(nb) as i:
        for c in range(4):
            values = ir.load(ir.at(x, (i, X_BYTES), 64 * c), BYTES)
            put_lift(ir, values, bias, ir.at(lifts, (i, 256), 64 * c))
    return lifts


def _block(ir, form: Form, at, x, lifts):
    """Lanes whose sum is the block's exact product; lifts is an address, or None."""
    b, of = ir.b, vec(I32)
    xs = [ir.load(ir.at(x, 64 * c), BYTES) for c in range(4)]
    dot = ir.dot_wide if form.bias == WIDE else ir.dot
    scales = form.scales(ir, at) if form.scales else None
    total = ir.const(0, of)
    for c, (codes, x64) in enumerate(form.codes(ir, at, xs)):
        start = ir.load(ir.at(lifts, 64 * c), of, 64) if lifts else ir.const(0, of)
        if scales is None:
            total = dot(b.add(total, start), codes, x64)
            continue
        per = scales.type.count // 4
        lanes = [per * c + lane * per // LANES for lane in range(LANES)]
        part = b.mul(dot(start, codes, x64), ir.shuffle(scales, scales, lanes))
        total = b.add(total, part)
    return total


def _row(ir, form: Form, row, x, nb, r, reach, lifts, held: _Held) -> None:
    with ir.loop(nb) as i:
        at = ir.at(row, (i, form.block_bytes))
        ir.ask(ir.b.add(at, reach), form.block_bytes)
        lift = ir.at(lifts, (i, 256)) if lifts else None
        total = _block(ir, form, at, ir.at(x, (i, X_BYTES)), lift)
        ir.store(total, ir.at(held.sums, (i, 64 * LANES), (r, 64)), 64)
        half = form.half(ir, at) if callable(form.half) else ir.load(ir.at(at, form.half), I16)
        ir.store(half, ir.at(held.halves, (i, 32), (r, 2)), 2)
        if form.minima:
            low = ir.load(ir.at(at, form.low_half), I16)
            ir.store(low, ir.at(held.low_halves, (i, 32), (r, 2)), 2)
            ir.store(form.minima(ir, at), ir.at(held.minima, (i, 256), (r, 16)), 16)


def _low_sums(ir, form: Form, at, x):
    """Per row, the sum over sub-blocks of minimum * sum(x), in int32."""
    b, of = ir.b, vec(I32)
    places = (LOW16, HIGH16) if form.by_16 else (LOW32, HIGH32)
    low, high = (
        ir.shuffle(s, s, list(range(16)) * 4)
        for s in (ir.load(ir.at(x, place), vec(I8, 16)) for place in places)
    )
    parts = []
    for q in range(4):
        four_rows = ir.load(ir.at(at, 64 * q), BYTES, 64)
        up = ir.dot(ir.const(0, of), four_rows, high)
        parts.append(ir.dot(b.shl(up, ir.const(7, of)), four_rows, low))
    return sums_of_fours(ir, parts)


def _float_steps(ir, form: Form, acc, x, nb, held: _Held) -> None:
    b = ir.b

    def factor(halves, i):
        return ir.from_half(ir.load(ir.at(halves, (i, 32)), vec(I16), 32))

    slot = ir.var(ir.load(acc, vec(F32), 64))
    with ir.loop(nb) as i:
        here = ir.at(x, (i, X_BYTES))
        rows = [
            ir.load(ir.at(held.sums, (i, 64 * LANES), 64 * r), vec(I32), 64) for r in range(LANES)
        ]
        d = factor(held.halves, i)
        if form.factor != 1:
            d = b.fmul(d, ir.const(form.factor, vec(F32)))
        dx = ir.splat(ir.load(ir.at(here, X_SCALE), F32, 4))
        step = ir.fma(ir.floats(lane_sums(ir, rows)), b.fmul(d, dx), b.load(slot))
        if form.minima:
            low = _low_sums(ir, form, ir.at(held.minima, (i, 256)), here)
            by = b.fmul(b.fneg(factor(held.low_halves, i)), dx)
            step = ir.fma(ir.floats(low), by, step)
        b.store(step, slot)
    ir.store(b.load(slot), acc, 64)


def emit(form: Form):
    """Emitting function of the product of a slab; see `leaves.OneRow`."""

    def code(ir, acc, src, stride, n_rows, x, b0, nb, reach):
        src = ir.at(src, (b0, form.block_bytes))
        x = ir.at(x, (b0, X_BYTES))
        held = _Held(
            room(ir, 64 * LANES * SLAB),
            room(ir, 32 * SLAB),
            room(ir, 32 * SLAB) if form.minima else None,
            room(ir, 256 * SLAB) if form.minima else None,
        )
        lifted = form.bias and (form.bias != WIDE or ir.biased)
        lifts = _put_lifts(ir, x, nb, form.bias) if lifted else None
        with ir.loop(n_rows) as r:
            _row(ir, form, ir.b.add(src, ir.b.mul(r, stride)), x, nb, r, reach, lifts, held)
        _float_steps(ir, form, acc, x, nb, held)

    return code
