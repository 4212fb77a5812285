"""Sums across lanes for 16 rows at once, and memory on a leaf's stack."""

from __future__ import annotations

from llvmlite import ir as llvm_ir

from engine.ops.cpu.simd.ir import I8, I64


def room(ir, n_bytes: int):
    """Address of n_bytes of the leaf's stack."""
    with ir.b.goto_entry_block():
        slot = ir.b.alloca(llvm_ir.ArrayType(I8, n_bytes))
        slot.align = 64
    return ir.b.ptrtoint(slot, I64)


def put_lift(ir, bytes64, bias: int, to) -> None:
    """Store minus the bias times the sum of each four of 64 activations; 64 bytes."""
    four = ir.as_dwords(bytes64)
    bytes_ = [ir.byte(four, k, True) for k in range(4)]
    total = ir.b.add(ir.b.add(*bytes_[:2]), ir.b.add(*bytes_[2:]))
    ir.store(ir.b.mul(total, ir.const(-bias, four.type)), to, 64)


def _quarters(*per_quarter: int) -> list[int]:
    """Lanes of a shuffle that does the same in each four lanes of two vectors."""
    return [
        4 * q + lane if lane < 4 else 16 + 4 * q + lane - 4
        for q in range(4)
        for lane in per_quarter
    ]


def whole_quarters(*quarters: int) -> list[int]:
    """Lanes of a shuffle that moves quarters, 0..3 of the first vector and 4..7 of the second."""
    return [4 * q + lane for q in quarters for lane in range(4)]


def fold(ir, a, b, low, high):
    """Two shuffles of a and b, added."""
    return ir.b.add(ir.shuffle(a, b, low), ir.shuffle(a, b, high))


def quarter_sums(ir, vectors) -> list:
    """Of 16 vectors four: lane k of quarter q of vector i is the sum of quarter q of 4i + k."""
    low, high = _quarters(0, 4, 1, 5), _quarters(2, 6, 3, 7)
    pairs = [fold(ir, vectors[i], vectors[i + 1], low, high) for i in range(0, len(vectors), 2)]
    low, high = _quarters(0, 1, 4, 5), _quarters(2, 3, 6, 7)
    return [fold(ir, pairs[i], pairs[i + 1], low, high) for i in range(0, len(pairs), 2)]


def half_sums(ir, vectors) -> list:
    """Of 16 vectors two: lane r of vector h is the sum of half h of vector r."""
    u = quarter_sums(ir, vectors)
    even, odd = whole_quarters(0, 2, 4, 6), whole_quarters(1, 3, 5, 7)
    a, b = (fold(ir, u[i], u[i + 1], even, odd) for i in (0, 2))
    return [ir.shuffle(a, b, even), ir.shuffle(a, b, odd)]


def lane_sums(ir, vectors):
    """Lane r is the sum of all lanes of vector r, of 16."""
    return ir.b.add(*half_sums(ir, vectors))


def sums_by_quarter(ir, vectors) -> list:
    """Of 16 vectors four: lane r of vector q is the sum of quarter q of vector r."""
    u = quarter_sums(ir, vectors)
    out = []
    for q in range(4):
        a, b = (ir.shuffle(u[i], u[i + 1], whole_quarters(q, 4 + q) * 2) for i in (0, 2))
        out.append(ir.shuffle(a, b, whole_quarters(0, 1, 4, 5)))
    return out


def sums_of_fours(ir, vectors):
    """Lane r is the sum of quarter r % 4 of vector r // 4, of four vectors."""
    low, high = _quarters(0, 4, 1, 5), _quarters(2, 6, 3, 7)
    a, b = (fold(ir, vectors[i], vectors[i + 1], low, high) for i in (0, 2))
    mixed = fold(ir, a, b, _quarters(0, 1, 4, 5), _quarters(2, 3, 6, 7))
    return ir.shuffle(mixed, mixed, [4 * (r % 4) + r // 4 for r in range(16)])
