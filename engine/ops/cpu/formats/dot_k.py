"""What the formats of 256-value blocks share: integer sums over sub-blocks and f32 steps.

Activations come as blocks of 256 int8 values, one f32 scale, and sums of 16 and of 32 values split
in bytes (sum = low + 128 * high), so that minima and biases are byte dot products too. All of a
block lies together: a kernel then needs one address per row.
"""

from __future__ import annotations

from llvmlite import ir as llvm_ir

from engine.ops.cpu.simd.ir import F32, I16, I32, I64, vec

SLAB = 8  # blocks that a call covers; sized for the L1 cache, no part of the arithmetic
# Offsets in a block of activations, after its 256 values.
LOW16, HIGH16, LOW32, HIGH32, X_SCALE, X_BYTES = 256, 272, 288, 296, 304, 320


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


def emit_superblocks(ir, n, acc, xt, b0, nb, block):
    """Sum blocks of 256 into n output vectors.

    ``block(index, xs)`` gives, for the addresses of the rows' blocks, per row a list of (integer
    vector, f32 weight scale); each adds acc = fma(float(integer), dw * dx, acc).
    """
    b = ir.b
    rows = [ir.at(ir.load(ir.at(xt, 8 * t), I64), (b0, X_BYTES)) for t in range(n)]
    slots = [ir.var(ir.load(ir.at(acc, 64 * t), vec(F32), 64)) for t in range(n)]
    with ir.loop(nb) as i:
        xs = [ir.at(row, (i, X_BYTES)) for row in rows]
        for t, terms in enumerate(block(i, xs)):
            dx = ir.splat(ir.load(ir.at(xs[t], X_SCALE), F32, 4))
            for total, scale in terms:
                step = ir.fma(ir.floats(total), b.fmul(scale, dx), b.load(slots[t]))
                b.store(step, slots[t])
    for t in range(n):
        ir.store(b.load(slots[t]), ir.at(acc, 64 * t), 64)


def nibble_sums(ir, xs, codes, scales, convert):
    """Per row, the sum over eight sub-blocks of scale * dot(weights, x), in int32.

    codes : address of 32 vectors; in vectors 8c..8c+7, low nibbles are sub-block 2c, high 2c+1.
    scales : address of eight staged int32 vectors.
    convert : nibbles to unsigned weights of at most 127.
    """
    b = ir.b
    totals = [ir.var(ir.const(0, vec(I32))) for _ in xs]
    with ir.loop(4) as c:
        low = [ir.const(0, vec(I32))] * len(xs)
        high = list(low)
        for j in range(8):
            v = ir.load(ir.at(codes, (c, 512), 64 * j), vec(I32), 64)
            w0 = convert(ir.as_bytes(ir.mask(v, 0x0F0F0F0F)))
            w1 = convert(ir.as_bytes(ir.mask(ir.shr(v, 4), 0x0F0F0F0F)))
            for t, x in enumerate(xs):
                low[t] = ir.dot(low[t], w0, ir.x_bytes(ir.at(x, (c, 64), 4 * j)))
                high[t] = ir.dot(high[t], w1, ir.x_bytes(ir.at(x, (c, 64), 32 + 4 * j)))
        s0 = ir.load(ir.at(scales, (c, 128)), vec(I32), 64)
        s1 = ir.load(ir.at(scales, (c, 128), 64), vec(I32), 64)
        for t, slot in enumerate(totals):
            part = b.add(b.mul(low[t], s0), b.mul(high[t], s1))
            b.store(b.add(b.load(slot), part), slot)
    return [b.load(slot) for slot in totals]


def weighted_sums(ir, xs, weights, low: int, high: int):
    """Per row, the sum over sub-blocks of weight * sum(x); weights are vectors of four bytes."""
    out = []
    for at in xs:
        parts = []
        for offset in (low, high):
            total = ir.const(0, vec(I32))
            for g, w in enumerate(weights):
                x = ir.x_bytes(ir.at(at, offset + 4 * g))
                total = ir.dot(total, ir.as_bytes(w), x)
            parts.append(total)
        out.append(ir.b.add(parts[0], ir.b.shl(parts[1], ir.const(7, vec(I32)))))
    return out


def decode_nibbles(ir, codes, panel, value):
    """Write 256 values of 16 rows; ``value(bytes, c, sub)`` maps int32 codes of a sub-block."""
    with ir.loop(4) as c, ir.loop(8) as j:
        v = ir.load(ir.at(codes, (c, 512), (j, 64)), vec(I32), 64)
        for sub in range(2):
            nibbles = ir.mask(ir.shr(v, 4 * sub), 0x0F0F0F0F)
            at = ir.at(panel, (c, 4096), (j, 256), 2048 * sub)
            for k, out in enumerate(value(nibbles, c, sub)):
                ir.store(out, ir.at(at, 64 * k), 64)
