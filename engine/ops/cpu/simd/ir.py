"""The vector builder behind the matmul kernels: 16-lane LLVM IR, and the integer dot product.

numba has no vector type, so a kernel's inner loop is written as LLVM IR inside one intrinsic.
Everything is generic IR on 16-lane vectors, which gives the same bits on every machine; only
the dot product of bytes and the byte table lookup are specialised, and both are exact.
"""

from __future__ import annotations

import functools
import inspect
import os
from contextlib import contextmanager

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from engine.errors import BackendError

I1, I8, I16, I32, I64 = (ir.IntType(k) for k in (1, 8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
LANES = 16


def vec(element, n: int = LANES) -> ir.VectorType:
    return ir.VectorType(element, n)


_AVX512 = {"avx512f", "avx512bw", "avx512vl", "avx512vnni", "avx2", "ssse3"}
# What each instruction set needs of the host; the first that the host has is taken.
_NEEDS = {
    "avx512vbmi": {"avx512vbmi", "gfni", *_AVX512},
    "avx512vnni": _AVX512,
    "avxvnni": {"avxvnni", "avx2", "ssse3"},
    "avx2": {"avx2", "ssse3"},
    "neon": {"neon", "dotprod"},
    "portable": set(),
}


@functools.cache
def target_features() -> frozenset[str]:
    """Features that numba compiles for: the host's, unless numba's own settings say otherwise."""
    chosen = getattr(numba.config, "CPU_FEATURES", None)
    if chosen or getattr(numba.config, "CPU_NAME", None):
        names = (chosen or "").split(",")
        return frozenset(n[1:] for n in names if n.startswith("+"))
    return frozenset(name for name, there in binding.get_host_cpu_features().items() if there)


@functools.cache
def isa() -> str:
    """Name of the dot product's instruction set: the best one, or DS4_CPU_ISA.

    Raises
    ------
    BackendError
        If DS4_CPU_ISA names a set that does not exist or that this machine lacks.
    """
    have = [name for name, needs in _NEEDS.items() if needs <= target_features()]
    wanted = os.environ.get("DS4_CPU_ISA") or have[0]
    if wanted not in have:
        raise BackendError(f"DS4_CPU_ISA: expected one of {', '.join(have)}, found {wanted!r}")
    return wanted


class Ir:
    """A builder of vector code for one instruction set. Addresses are i64 values."""

    def __init__(self, builder, isa_name: str, half: bool):
        self.b = builder
        self.isa = isa_name
        self.half = half  # whether f16 conversion is an instruction

    # -- values and memory

    def c(self, value: int, of=I64):
        return ir.Constant(of, value)

    def const(self, value, of):
        """A vector constant: one value in every lane, or a sequence of lane values."""
        values = [value] * of.count if np.isscalar(value) else list(value)
        return ir.Constant(of, values)

    def at(self, base, *terms):
        """base plus a sum of ints and (index, stride) pairs."""
        for term in terms:
            if isinstance(term, tuple):
                term = self.b.mul(term[0], self.c(term[1]))
            elif isinstance(term, int):
                if term == 0:
                    continue
                term = self.c(term)
            base = self.b.add(base, term)
        return base

    def load(self, address, of, align: int = 1):
        got = self.b.load(self.b.inttoptr(address, of.as_pointer()))
        got.align = align
        return got

    def store(self, value, address, align: int = 1) -> None:
        put = self.b.store(value, self.b.inttoptr(address, value.type.as_pointer()))
        put.align = align

    def ask(self, address, n_bytes: int) -> None:
        """Ask for the cache lines of n_bytes ahead of their use; never faults."""
        for at in range(0, n_bytes, 64):
            where = self.b.inttoptr(self.at(address, at), I8.as_pointer())
            self.call(
                "llvm.prefetch.p0", ir.VoidType(), where, *(self.c(v, I32) for v in (0, 3, 1))
            )

    def var(self, initial):
        """A register that loops may change; returns its slot."""
        slot = cgutils.alloca_once(self.b, initial.type)
        self.b.store(initial, slot)
        return slot

    @contextmanager
    def loop(self, count):
        count = self.c(count) if isinstance(count, int) else count
        with cgutils.for_range(self.b, count, intp=I64) as got:
            yield got.index

    def splat(self, value, n: int = LANES):
        of = vec(value.type, n)
        one = self.b.insert_element(ir.Constant(of, ir.Undefined), value, self.c(0, I32))
        return self.b.shuffle_vector(one, one, self.const(0, vec(I32, n)))

    def shuffle(self, a, b, lanes):
        return self.b.shuffle_vector(a, b, ir.Constant(vec(I32, len(lanes)), list(lanes)))

    def call(self, name: str, result, *args):
        kind = ir.FunctionType(result, [a.type for a in args])
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, name), args)

    # -- arithmetic on <16 x float> and <16 x i32>

    def fma(self, a, b, c):
        return self.call(f"llvm.fma.v{a.type.count}f32", a.type, a, b, c)

    def floats(self, ints):
        return self.b.sitofp(ints, vec(F32, ints.type.count))

    def shr(self, x, n: int):
        return x if n == 0 else self.b.lshr(x, self.const(n, x.type))

    def mask(self, x, bits: int):
        return self.b.and_(x, self.const(bits, x.type))

    def byte(self, x, i: int, signed: bool = False):
        """Byte i of every 32-bit lane."""
        if signed:
            up = x if i == 3 else self.b.shl(x, self.const(24 - 8 * i, x.type))
            return self.b.ashr(up, self.const(24, x.type))
        return self.shr(x, 24) if i == 3 else self.mask(self.shr(x, 8 * i), 0xFF)

    def from_half(self, bits):
        """<n x i16> holding f16 to <n x float>, exact, NaN and infinity included."""
        n = bits.type.count
        if self.half:
            return self.b.fpext(self.b.bitcast(bits, vec(F16, n)), vec(F32, n))
        wide = self.b.zext(bits, vec(I32, n))
        magnitude = self.mask(wide, 0x7FFF)
        # Read as f32, an f16's fields are 2**112 too small; the product is exact.
        scaled = self.b.fmul(
            self.b.bitcast(self.b.shl(magnitude, self.const(13, wide.type)), vec(F32, n)),
            self.const(2.0**112, vec(F32, n)),
        )
        special = self.b.icmp_unsigned(">=", magnitude, self.const(0x7C00, wide.type))
        top = self.b.select(special, self.const(0x7F800000, wide.type), self.const(0, wide.type))
        sign = self.b.shl(self.mask(wide, 0x8000), self.const(16, wide.type))
        value = self.b.or_(self.b.bitcast(scaled, wide.type), self.b.or_(sign, top))
        return self.b.bitcast(value, vec(F32, n))

    # -- bytes

    def as_bytes(self, x):
        return self.b.bitcast(x, vec(I8, 64))

    def as_dwords(self, x):
        return self.b.bitcast(x, vec(I32))

    @property
    def biased(self) -> bool:
        """Whether `dot_wide` leaves 128 * sum(x) in its result, to be subtracted by the caller."""
        return self.wide or self.isa == "avxvnni"

    @property
    def wide(self) -> bool:
        """Whether 64 bytes are one register."""
        return self.isa in ("avx512vbmi", "avx512vnni")

    def dot_wide(self, acc, u, x):
        """acc + dot4(u - 128, x), or acc + dot4(u, x) where `biased`; u <64 x i8> unsigned.

        x is never -128, which no activation is.
        """
        if self.biased:
            return self.dot(acc, u, x)
        signed = self.b.xor(u, self.const(-128, u.type))
        return self._dot_signed(acc, signed, x)

    def dot(self, acc, u, x):
        """acc + dot4(u, x): lane i sums four products of bytes 4i..4i+3, exactly.

        u <64 x i8> unsigned, at most 127 in every byte unless `biased`; x <64 x i8> signed.
        """
        if self.wide:
            return self.call("llvm.x86.avx512.vpdpbusd.512", vec(I32), acc, u, x)
        if self.isa == "avxvnni":
            return self._in_parts(2, "llvm.x86.avx512.vpdpbusd.256", acc, u, x)
        if self.isa == "avx2":
            # Two products of at most 127 * 128 cannot saturate 16 bits.
            ones = self.const(1, vec(I16, 16))
            sums = []
            for a, b in zip(self._split(u, 2), self._split(x, 2), strict=True):
                pairs = self.call("llvm.x86.avx2.pmadd.ub.sw", vec(I16, 16), a, b)
                sums.append(self.call("llvm.x86.avx2.pmadd.wd", vec(I32, 8), pairs, ones))
            return self.b.add(acc, self._join(sums))
        return self._dot_signed(acc, u, x)

    def _dot_signed(self, acc, a, x):
        if self.isa == "neon":
            return self._in_parts(4, "llvm.aarch64.neon.sdot.v4i32.v16i8", acc, a, x)
        if self.isa == "avx2":
            # |a| * (x with the sign of a): two products of at most 128 * 127 fit 16 bits.
            ones = self.const(1, vec(I16, 16))
            sums = []
            for pa, px in zip(self._split(a, 2), self._split(x, 2), strict=True):
                of = pa.type
                negative = self.b.icmp_signed("<", pa, self.const(0, of))
                size = self.b.select(negative, self.b.neg(pa), pa)
                moved = self.call("llvm.x86.avx2.psign.b", of, px, pa)
                pairs = self.call("llvm.x86.avx2.pmadd.ub.sw", vec(I16, 16), size, moved)
                sums.append(self.call("llvm.x86.avx2.pmadd.wd", vec(I32, 8), pairs, ones))
            return self.b.add(acc, self._join(sums))
        da, dx = self.as_dwords(a), self.as_dwords(x)
        for i in range(4):
            acc = self.b.add(acc, self.b.mul(self.byte(da, i, True), self.byte(dx, i, True)))
        return acc

    def _in_parts(self, n: int, name: str, acc, a, x):
        """Run a narrower dot instruction on n equal parts of the vectors."""
        parts = zip(self._split(acc, n), self._split(a, n), self._split(x, n), strict=True)
        return self._join([self.call(name, p[0].type, *p) for p in parts])

    def _split(self, x, n: int) -> list:
        width = x.type.count // n
        return [self.shuffle(x, x, range(i * width, (i + 1) * width)) for i in range(n)]

    def _join(self, parts: list):
        while len(parts) > 1:
            width = 2 * parts[0].type.count
            parts = [
                self.shuffle(a, b, range(width))
                for a, b in zip(parts[::2], parts[1::2], strict=True)
            ]
        return parts[0]

    def lookup(self, table, codes):
        """table[code] for every byte; codes <64 x i8> in 0..15, table 16 values of a byte."""
        values = [v - 256 if v > 127 else v for v in table]
        if self.wide:
            wide = self.const(values * 4, vec(I8, 64))
            return self.call("llvm.x86.avx512.pshuf.b.512", vec(I8, 64), wide, codes)
        if self.isa in ("avxvnni", "avx2"):
            wide = self.const(values * 2, vec(I8, 32))
            parts = [
                self.call("llvm.x86.avx2.pshuf.b", vec(I8, 32), wide, p)
                for p in self._split(codes, 2)
            ]
            return self._join(parts)
        if self.isa == "neon":
            narrow = self.const(values, vec(I8, 16))
            parts = [
                self.call("llvm.aarch64.neon.tbl1.v16i8", vec(I8, 16), narrow, p)
                for p in self._split(codes, 4)
            ]
            return self._join(parts)
        out = self.const(values[0], vec(I8, 64))
        for code in range(1, 16):
            hit = self.b.icmp_unsigned("==", codes, self.const(code, vec(I8, 64)))
            out = self.b.select(hit, self.const(values[code], vec(I8, 64)), out)
        return out

    def x_bytes(self, address):
        """Four activations in every lane: <64 x i8> of one dword."""
        return self.as_bytes(self.splat(self.load(address, I32)))

    # -- sixteen rows at once

    def each_block(self, src, stride, n_rows, n, size: int, body) -> None:
        """Emit ``body(i, rows)`` for i below n; rows are addresses of 16 blocks of `size` bytes.

        Rows from n_rows on repeat the last one. Where all 16 are there, four addresses and two
        multiples of the stride lead to them, which fit the registers of any machine.
        """
        b = self.b
        with b.if_else(b.icmp_signed("==", n_rows, self.c(LANES))) as (all_there, some):
            with all_there, self.loop(n) as i:
                rows = []
                for first in range(0, LANES, 4):
                    base = self.at(src, (stride, first), (i, size))
                    base = self._unknown(base)
                    rows += [self.at(base, (stride, k)) if k else base for k in range(4)]
                body(i, rows)
            with some:
                rows = self.row_addresses(src, stride, n_rows)
                with self.loop(n) as i:
                    body(i, [self.at(row, (i, size)) for row in rows])

    def _unknown(self, x):
        """x, as a value of which the optimiser knows nothing.

        It would otherwise keep sixteen addresses through a loop, and most of them on the stack.
        """
        return self.b.asm(ir.FunctionType(I64, [I64]), "", "=r,0", [x], False)

    def row_addresses(self, src, stride, n_rows) -> list:
        """Addresses of 16 rows; rows from n_rows on repeat the last one."""
        last = self.b.sub(n_rows, self.c(1))
        rows = []
        for r in range(LANES):
            inside = self.b.icmp_signed("<", self.c(r), last)
            index = self.b.select(inside, self.c(r), last)
            rows.append(self.b.add(src, self.b.mul(index, stride)))
        return rows

    def transpose4(self, rows, offset) -> list:
        """Dwords 0..3 at `offset` of 16 rows, as four <16 x i32>: lane = row."""
        quads = [self.load(self.at(r, offset), vec(I32, 4)) for r in rows]
        wide = [self._join([quads[i + 4 * j] for j in range(4)]) for i in range(4)]
        low, high = [], []
        for a, b in ((0, 1), (2, 3)):
            low.append(
                self.shuffle(
                    wide[a], wide[b], _lanes(lambda g: (4 * g, 16 + 4 * g, 4 * g + 1, 17 + 4 * g))
                )
            )
            high.append(
                self.shuffle(
                    wide[a],
                    wide[b],
                    _lanes(lambda g: (4 * g + 2, 18 + 4 * g, 4 * g + 3, 19 + 4 * g)),
                )
            )
        out = []
        for a, b in (low, high):
            out.append(
                self.shuffle(a, b, _lanes(lambda g: (4 * g, 4 * g + 1, 16 + 4 * g, 17 + 4 * g)))
            )
            out.append(
                self.shuffle(a, b, _lanes(lambda g: (4 * g + 2, 4 * g + 3, 18 + 4 * g, 19 + 4 * g)))
            )
        return out


def _lanes(quad) -> list[int]:
    return [lane for g in range(4) for lane in quad(g)]


def make_ir(builder) -> Ir:
    """The builder for this machine."""
    features = target_features()
    return Ir(builder, isa(), bool({"f16c", "fullfp16", "neon"} & features))


def emitter(emit):
    """Turn ``emit(ir, *addresses)`` into an intrinsic that takes that many int64.

    The plain function stays reachable as `emit` of the result.
    """
    names = list(inspect.signature(emit).parameters)[1:]

    def typer(typingctx, *args):
        def codegen(context, builder, signature, values):
            emit(make_ir(builder), *values)
            return context.get_dummy_value()

        return types.void(*[types.int64] * len(names)), codegen

    typer.__name__ = getattr(emit, "__name__", "emit")
    typer.__signature__ = inspect.Signature(
        [
            inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD)
            for n in ("typingctx", *names)
        ]
    )
    made = intrinsic(typer)
    made.emit = emit
    return made
