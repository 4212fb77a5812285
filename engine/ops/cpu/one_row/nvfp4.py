"""One row of activations times NVFP4: a block of 64 values is one vector, a quarter a scale."""

from __future__ import annotations

from engine.ops.cpu.formats.blocks_32 import E2M1_BIAS, E2M1_TABLE, X_BYTES, X_SCALE
from engine.ops.cpu.formats.nvfp4 import BLOCK, scale
from engine.ops.cpu.one_row.planes import shifted
from engine.ops.cpu.one_row.sums import room, sums_by_quarter
from engine.ops.cpu.simd.ir import F32, I8, I32, LANES, vec

SLAB = 16  # blocks that a call covers; sized for the L1 cache, no part of the arithmetic
FORMS = {"NVFP4": BLOCK}
_BYTES = vec(I8, 64)


def _codes(ir, at):
    """Eight bytes each: their low nibbles, then their high ones."""
    v = ir.load(ir.at(at, 4), vec(I8, 32))
    v = ir.shuffle(v, v, [8 * (k // 16) + k % 8 for k in range(64)])
    return ir.lookup(E2M1_TABLE, shifted(ir, v, (0, 4) * 4, 0x0F))


def _activations(ir, x):
    """64 values of two blocks of activations, and what the bias adds to each four's product."""
    halves = [ir.load(ir.at(x, X_BYTES * k), vec(I8, 32)) for k in range(2)]
    return ir.shuffle(*halves, range(64))


def emit(name: str):
    """Emitting function of the product; see `leaves.OneRow`."""

    def code(ir, acc, src, stride, n_rows, x, b0, nb, reach):
        b, of = ir.b, vec(I32)
        src = ir.at(src, (b0, BLOCK))
        x = ir.at(x, (b0, 2 * X_BYTES))
        lifts = room(ir, 64 * SLAB)
        sums = room(ir, 64 * LANES * SLAB)
        heads = room(ir, 64 * SLAB)
        with ir.loop(nb) as i:
            four = ir.as_dwords(_activations(ir, ir.at(x, (i, 2 * X_BYTES))))
            total = ir.const(0, of)
            for k in range(4):
                total = b.add(total, ir.byte(four, k, True))
            ir.store(b.mul(total, ir.const(-E2M1_BIAS, of)), ir.at(lifts, (i, 64)), 64)
        with ir.loop(n_rows) as r:
            row = b.add(src, b.mul(r, stride))
            with ir.loop(nb) as i:
                at = ir.at(row, (i, BLOCK))
                ir.ask(b.add(at, reach), BLOCK)
                start = ir.load(ir.at(lifts, (i, 64)), of, 64)
                x64 = _activations(ir, ir.at(x, (i, 2 * X_BYTES)))
                found = ir.dot(start, _codes(ir, at), x64)
                ir.store(found, ir.at(sums, (i, 64 * LANES), (r, 64)), 64)
                ir.store(ir.load(at, I32), ir.at(heads, (i, 64), (r, 4)), 4)
        slot = ir.var(ir.load(acc, vec(F32), 64))
        with ir.loop(nb) as i:
            rows = [ir.load(ir.at(sums, (i, 64 * LANES), 64 * r), of, 64) for r in range(LANES)]
            for sub, total in enumerate(sums_by_quarter(ir, rows)):
                half = ir.at(x, (i, 2 * X_BYTES), X_BYTES * (sub // 2))
                dx = ir.splat(ir.load(ir.at(half, X_SCALE), F32, 4))
                by = b.fmul(scale(ir, ir.at(heads, (i, 64)), sub), dx)
                b.store(ir.fma(ir.floats(total), by, b.load(slot)), slot)
        ir.store(b.load(slot), acc, 64)

    return code
