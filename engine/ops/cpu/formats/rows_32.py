"""One row of x times weights in place, along their rows, for the formats of `blocks_32`.

Making a panel costs more than a single product with it. Here two blocks of a weight row meet two
blocks of x in one vector, and the integer sums of 16 rows are added across lanes together. The
integers are those of the panels' products, and the f32 steps are the same, so the bits are, too.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.ops.cpu.formats.blocks_32 import (
    E2M1_TABLE,
    FORMS,
    IQ4_TABLE,
    WIDE,
    X_BYTES,
    X_SCALE,
    Form,
    float_step,
    start,
)
from engine.ops.cpu.simd.ir import F32, I1, I8, I16, I32, LANES, vec


def _nibbles(at: int):
    """Values of a block from 16 bytes at an offset: low nibbles first."""

    def codes(ir, block):
        v = ir.load(ir.at(block, at), vec(I8))
        return ir.shuffle(ir.mask(v, 15), ir.shr(v, 4), range(32))

    return codes


def _with_fifth_bit(at: int):
    """Nibbles behind a dword of fifth bits."""
    nibbles = _nibbles(at + 4)

    def codes(ir, block):
        bits = ir.b.bitcast(ir.load(ir.at(block, at), I32), vec(I1, 32))
        of = vec(I8, 32)
        high = ir.b.select(bits, ir.const(16, of), ir.const(0, of))
        return ir.b.or_(nibbles(ir, block), high)

    return codes


def _bytes(ir, block):
    v = ir.load(ir.at(block, 2), vec(I8, 32))
    return ir.b.xor(v, ir.const(-128, v.type))


# Bytes of a block in the order of its values, and the table that they are looked up in.
_CODES: dict[str, tuple[Callable, list[int] | None]] = {
    "Q8_0": (_bytes, None),
    "MXFP4": (_nibbles(1), E2M1_TABLE),
    "IQ4_NL": (_nibbles(2), IQ4_TABLE),
    "Q4_0": (_nibbles(2), None),
    "Q4_1": (_nibbles(4), None),
    "Q5_0": (_with_fifth_bit(2), None),
    "Q5_1": (_with_fifth_bit(4), None),
}


def _interleave(ir, a, b, first: bool, wide: bool):
    """Half of the lanes of a and b in turns, within each four lanes: singly, or by two."""
    k = 0 if first else 2
    quad = (k, k + 1, 16 + k, 17 + k) if wide else (k, 16 + k, k + 1, 17 + k)
    return ir.shuffle(a, b, [4 * g + lane for g in range(4) for lane in quad])


def _fold(ir, a, b, wide: bool):
    return ir.b.add(*(_interleave(ir, a, b, first, wide) for first in (True, False)))


def sums_of_rows(ir, vectors) -> list:
    """Of 16 rows' vectors, the sums of lanes 0..7 and of lanes 8..15: two vectors, lane = row."""
    pairs = [_fold(ir, a, b, False) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    quads = [_fold(ir, a, b, True) for a, b in zip(pairs[::2], pairs[1::2], strict=True)]
    out = []
    for half in range(2):
        lanes = [
            8 * half + 4 * part + k + 16 * v for part in (0, 1) for v in (0, 1) for k in range(4)
        ]
        both = [ir.shuffle(a, b, lanes) for a, b in zip(quads[::2], quads[1::2], strict=True)]
        ends = [[8 * part + k + 16 * v for v in (0, 1) for k in range(8)] for part in (0, 1)]
        out.append(ir.b.add(*(ir.shuffle(*both, lanes) for lanes in ends)))
    return out


def _put_heads(ir, form: Form, block, head, r: int) -> None:
    """Scale (and offset) of row r into the places that a panel has them in."""
    if form.head == LANES:
        ir.store(ir.load(block, I8), ir.at(head, r))
        return
    for part in range(form.head // 32):
        ir.store(ir.load(ir.at(block, 2 * part), I16), ir.at(head, 32 * part, 2 * r), 2)


def emit(name: str):
    """Emitting function of ``along(acc, src, stride, n_rows, x, n_blocks)``: 16 outputs."""
    form = FORMS[name]
    codes, table = _CODES[name]

    def emit(ir, acc, src, stride, n_rows, x, nb):
        b = ir.b
        rows = ir.row_addresses(src, stride, n_rows)
        total = ir.var(ir.load(acc, vec(F32), 64))
        heads = [ir.space(64) for _ in range(2)]
        dot = ir.dot_wide if form.bias == WIDE else ir.dot
        zero = ir.const(0, vec(I32))
        with ir.loop(b.lshr(b.add(nb, ir.c(1)), ir.c(1))) as pair:
            first = b.shl(pair, ir.c(1))
            second = b.add(first, ir.c(1))
            whole = b.icmp_signed("<", second, nb)
            second = b.select(whole, second, first)  # an odd last block stands in for its neighbour
            xs = [ir.at(x, (i, X_BYTES)) for i in (first, second)]
            values = ir.shuffle(*(ir.load(at, vec(I8, 32)) for at in xs), range(64))
            found = []
            for r, row in enumerate(rows):
                blocks = [ir.at(row, (i, form.block_bytes)) for i in (first, second)]
                for block, head in zip(blocks, heads, strict=True):
                    _put_heads(ir, form, block, head, r)
                w = ir.shuffle(*(codes(ir, block) for block in blocks), range(64))
                found.append(dot(zero, w if table is None else ir.lookup(table, w), values))
            before = b.load(total)
            for k, sums in enumerate(sums_of_rows(ir, found)):
                ints = b.add(sums, start(ir, form, xs[k]))
                dx = ir.splat(ir.load(ir.at(xs[k], X_SCALE), F32, 4))
                step = float_step(ir, form, heads[k], xs[k], ints, dx, before)
                before = step if k == 0 else b.select(ir.splat(whole), step, before)
            b.store(before, total)
        ir.store(b.load(total), acc, 64)

    return emit
