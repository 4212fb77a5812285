"""One row of activations times formats of 32-value blocks: two blocks of a row are one vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.ops.cpu.formats import blocks_32
from engine.ops.cpu.formats.blocks_32 import (
    E2M1_TABLE,
    IQ4_TABLE,
    WIDE,
    X_BYTES,
    X_SCALE,
    float_step,
)
from engine.ops.cpu.one_row.planes import nibble_pairs
from engine.ops.cpu.one_row.sums import half_sums, put_lift, room
from engine.ops.cpu.simd.ir import F32, I1, I8, I16, I32, I64, LANES, vec

SLAB = 64  # blocks that a call covers; sized for the L1 cache, no part of the arithmetic
_BYTES = vec(I8, 64)


@dataclass(frozen=True, slots=True)
class _Form:
    """Where two blocks at two addresses keep their codes.

    Parameters
    ----------
    codes : callable
        ``codes(ir, first, second)`` gives 64 bytes above the bias of `formats.blocks_32`.
    scale_bytes : int
        Of what stands before the codes and is kept for the float steps, 1, 2 or 4.
    """

    codes: Callable
    scale_bytes: int = 2


def _both(ir, first, second, offset: int, n: int):
    """n bytes of either block."""
    return ir.shuffle(
        *(ir.load(ir.at(at, offset), vec(I8, n)) for at in (first, second)), range(2 * n)
    )


def _whole(ir, first, second):
    return ir.b.xor(_both(ir, first, second, 2, 32), ir.const(-128, _BYTES))


def _nibbles(offset: int, table=None):
    def codes(ir, first, second):
        found = nibble_pairs(ir, _both(ir, first, second, offset, 16))
        return found if table is None else ir.lookup(table, found)

    return codes


def _with_fifth_bit(offset: int):
    low = _nibbles(offset + 4)

    def codes(ir, first, second):
        b = ir.b
        low32, high32 = (b.zext(ir.load(ir.at(at, offset), I32), I64) for at in (first, second))
        bits = b.bitcast(b.or_(low32, b.shl(high32, ir.c(32))), vec(I1, 64))
        fifth = b.select(bits, ir.const(16, _BYTES), ir.const(0, _BYTES))
        return b.or_(low(ir, first, second), fifth)

    return codes


FORMS = {
    "Q8_0": _Form(_whole),
    "MXFP4": _Form(_nibbles(1, E2M1_TABLE), 1),
    "IQ4_NL": _Form(_nibbles(2, IQ4_TABLE)),
    "Q4_0": _Form(_nibbles(2)),
    "Q4_1": _Form(_nibbles(4), 4),
    "Q5_0": _Form(_with_fifth_bit(2)),
    "Q5_1": _Form(_with_fifth_bit(4), 4),
}


def _put_activations(ir, x, nb, n_pairs, bias: int):
    """128 bytes a pair of blocks: its activations, then minus the bias times each four's sum.

    A block without a second one is taken twice.
    """
    pairs = room(ir, 128 * SLAB // 2)
    with ir.loop(n_pairs) as p:
        first, second = _pair(ir, x, X_BYTES, p, nb)
        values = _both(ir, first, second, 0, 32)
        ir.store(values, ir.at(pairs, (p, 128)), 64)
        put_lift(ir, values, bias, ir.at(pairs, (p, 128), 64))
    return pairs


def _pair(ir, base, stride: int, p, nb):
    """Addresses of blocks 2p and 2p + 1, of the first again where there is no second."""
    b = ir.b
    low = b.shl(p, ir.c(1))
    next_ = b.add(low, ir.c(1))
    high = b.select(b.icmp_signed("<", next_, nb), next_, low)
    return ir.at(base, (low, stride)), ir.at(base, (high, stride))


def _put_scale(ir, form: _Form, at, to, r) -> None:
    if form.scale_bytes == 1:
        ir.store(ir.load(at, I8), ir.b.add(to, r), 1)
        return
    for part in range(form.scale_bytes // 2):
        ir.store(ir.load(ir.at(at, 2 * part), I16), ir.at(to, 32 * part, (r, 2)), 2)


def emit(name: str):
    """Emitting function of the product of a format of `FORMS`; see `leaves.OneRow`."""
    form, panel = FORMS[name], blocks_32.FORMS[name]
    size = panel.block_bytes

    def code(ir, acc, src, stride, n_rows, x, b0, nb, reach):
        b = ir.b
        src = ir.at(src, (b0, size))
        x = ir.at(x, (b0, X_BYTES))
        n_pairs = b.lshr(b.add(nb, ir.c(1)), ir.c(1))
        lifted = panel.bias and (panel.bias != WIDE or ir.biased)
        pairs = _put_activations(ir, x, nb, n_pairs, panel.bias if lifted else 0)
        sums = room(ir, 64 * LANES * SLAB // 2)
        totals = room(ir, 64 * SLAB)
        heads = room(ir, 64 * SLAB)
        dot = ir.dot_wide if panel.bias == WIDE else ir.dot
        with ir.loop(n_rows) as r:
            row = b.add(src, b.mul(r, stride))
            with ir.loop(n_pairs) as p:
                first, second = _pair(ir, row, size, p, nb)
                ir.ask(b.add(first, reach), 2 * size)
                here = ir.at(pairs, (p, 128))
                start = ir.load(ir.at(here, 64), vec(I32), 64) if lifted else ir.const(0, vec(I32))
                found = dot(start, form.codes(ir, first, second), ir.load(here, _BYTES, 64))
                ir.store(found, ir.at(sums, (p, 64 * LANES), (r, 64)), 64)
                for k, at in enumerate((first, second)):
                    _put_scale(ir, form, at, ir.at(heads, (p, 128), 64 * k), r)
        with ir.loop(n_pairs) as p:
            rows = [
                ir.load(ir.at(sums, (p, 64 * LANES), 64 * r), vec(I32), 64) for r in range(LANES)
            ]
            for k, total in enumerate(half_sums(ir, rows)):
                ir.store(total, ir.at(totals, (p, 128), 64 * k), 64)
        slot = ir.var(ir.load(acc, vec(F32), 64))
        with ir.loop(nb) as i:
            here = ir.at(x, (i, X_BYTES))
            total = ir.load(ir.at(totals, (i, 64)), vec(I32), 64)
            dx = ir.splat(ir.load(ir.at(here, X_SCALE), F32, 4))
            head = ir.at(heads, (i, 64))
            b.store(float_step(ir, panel, head, here, total, dx, b.load(slot)), slot)
        ir.store(b.load(slot), acc, 64)

    return code
