"""Codebooks along a row: the values of many rows of a codebook at once.

Where bytes can be permuted over registers (VBMI), a codebook is a table of words with two or
three bits a value, and 32 rows are looked up at once by a tree of permutations; elsewhere
each is a load.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from llvmlite import ir as llvm_ir

from engine.ops.cpu.formats.codebooks import grid
from engine.ops.cpu.one_row.blocks_256 import BYTES
from engine.ops.cpu.simd.ir import I16, I32, I64, vec

WORDS = vec(I16, 32)
_MOST_PERMUTED = 1024  # rows of a codebook; for 2048, loads are faster


@dataclass(frozen=True, slots=True)
class Book:
    """A codebook.

    Parameters
    ----------
    name : str
        In `gguf.quants`.
    values : tuple of int
        What its codes mean, ascending: magnitudes, or IQ1's values in eighths above the bias.
    """

    name: str
    values: tuple[int, ...]

    @property
    def bits(self) -> int:
        return 2 if len(self.values) <= 4 else 3

    def words(self) -> np.ndarray:
        """A row's codes in 16 bits, the first lowest."""
        codes = grid(self.name).astype(np.uint16)
        shifts = np.arange(codes.shape[1], dtype=np.uint16) * np.uint16(self.bits)
        return np.bitwise_or.reduce(codes << shifts, axis=1)

    def rows(self) -> np.ndarray:
        """A row's values as one integer of a byte each."""
        values = np.asarray(self.values, np.uint8)[grid(self.name)]
        return values.view(f"<u{values.shape[1]}").ravel()


def _table(ir, name: str, values: np.ndarray, of):
    """The constant `name`, made at its first use in a module."""
    found = ir.b.module.globals.get(name)
    if found is None:
        kind = llvm_ir.ArrayType(of, len(values))
        found = llvm_ir.GlobalVariable(ir.b.module, kind, name)
        found.linkage, found.global_constant, found.align = "internal", True, 64
        found.initializer = llvm_ir.Constant(kind, values.tolist())
    return found


def _permuted(ir, book: Book, indices):
    """Words of the codebook at <32 x i16> indices."""
    b, table = ir.b, book.words()
    at = b.ptrtoint(_table(ir, f"ds4.words.{book.name}", table, I16), I64)

    def part(k):
        return ir.load(ir.at(at, 64 * k), WORDS, 64)

    found = [
        ir.call("llvm.x86.avx512.vpermi2var.hi.512", WORDS, part(k), indices, part(k + 1))
        for k in range(0, len(table) // 32, 2)
    ]
    bit = 64
    while len(found) > 1:
        high = b.icmp_unsigned("!=", b.and_(indices, ir.const(bit, WORDS)), ir.const(0, WORDS))
        found = [b.select(high, *found[k : k + 2][::-1]) for k in range(0, len(found), 2)]
        bit *= 2
    return found[0]


def multishift(ir, v, offsets):
    """Byte k of every qword is its eight bits from bit offsets[k] on."""
    control = ir.const(list(offsets) * 8, BYTES)
    return ir.call("llvm.x86.avx512.pmultishift.qb.512", BYTES, control, ir.as_bytes(v))


def _unpacked(ir, book: Book, words, part: int):
    """64 values from word 8 * part (rows of eight) or 16 * part (rows of four) on."""
    b = ir.b
    if book.bits == 2:
        lanes = [8 * part + k // 4 for k in range(32)]
        codes = multishift(ir, ir.shuffle(words, words, lanes), range(0, 16, 2))
    else:
        two = ir.shuffle(words, words, range(16 * part, 16 * part + 16))
        wide = b.zext(b.bitcast(two, vec(I32, 8)), vec(I64, 8))
        codes = multishift(ir, wide, (0, 3, 6, 9, 16, 19, 22, 25))
    codes = b.and_(codes, ir.const((1 << book.bits) - 1, BYTES))
    return ir.lookup((*book.values, *[0] * (16 - len(book.values))), codes)


def _loaded(ir, book: Book, indices: list):
    """64 values a time, each row of the codebook loaded for itself."""
    b, rows = ir.b, book.rows()
    of = I64 if rows.dtype.itemsize == 8 else I32
    table = _table(ir, f"ds4.rows.{book.name}", rows, of)
    # Four indices at a time move to an integer register: loads of 16 bits from a vector just stored
    # would wait for it.
    fours = [
        b.extract_element(b.bitcast(v, vec(I64, 8)), ir.c(k, I32))
        for v in indices
        for k in range(8)
    ]
    per = 512 // of.width
    for c in range(4):
        made = ir.const(0, vec(of, per))
        for k in range(per):
            n = per * c + k
            index = b.and_(b.lshr(fours[n // 4], ir.c(16 * (n % 4))), ir.c(0xFFFF))
            row = b.load(b.gep(table, [ir.c(0), index]))
            made = b.insert_element(made, row, ir.c(k, I32))
        yield b.bitcast(made, BYTES)


def values_at(ir, book: Book, indices: list):
    """The codebook's values at all indices of a block, 64 a time."""
    if ir.isa != "avx512vbmi" or len(book.words()) > _MOST_PERMUTED:
        yield from _loaded(ir, book, indices)
        return
    words = [_permuted(ir, book, v) for v in indices]
    per = 4 // len(words)
    for c in range(4):
        yield _unpacked(ir, book, words[c // per], c % per)
