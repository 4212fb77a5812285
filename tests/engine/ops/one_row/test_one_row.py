"""One row of activations with a weight in place: the bits of the panels, on every machine."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from engine.ops import cpu
from engine.ops.cpu import products
from engine.ops.cpu.one_row.leaves import one_row
from engine.ops.cpu.simd import ir as simd
from engine.quant.formats import BY_NAME
from tests.engine.ops.blocks import QUANTISED, int8_product, random_tensor, tensor
from tests.engine.ops.test_matmul import extreme_blocks, product, rows
from tests.engine.ops.test_matmul_isa import HERE, Unsigned, arm_assembly, recompiled

ROWS = 37
CODEBOOKS = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M")


def field(w, offset: int) -> int:
    return int(w._fields[offset // 8])


def test_only_integer_products_in_place_have_a_way_of_their_own():
    t = random_tensor("Q4_K", np.random.default_rng(0), 16, 256)
    for activations, repack, own in (
        ("int8", False, True),
        ("int8", True, False),
        ("f32", False, False),
    ):
        w = cpu.prepare(t, activations=activations, repack=repack)
        same = field(w, products.D_ONE_FN) == field(w, products.D_ROWS_FN)
        assert same is not own
        assert (field(w, products.D_ONE) != 0) is own


def lengths(name):
    """Columns: one block, a slab and a part, and an odd number of blocks of 32."""
    size = BY_NAME[name].block_len
    return size, (one_row(name).slab + 3) * size, *((96,) if size == 32 else ())


@pytest.mark.parametrize("name", QUANTISED)
def test_a_row_alone_has_the_bits_of_the_panel(name):
    rng = np.random.default_rng(12)
    for cols in lengths(name):
        t = random_tensor(name, rng, ROWS, cols)
        x = rows(2, cols)
        expected = product(x, cpu.prepare(t, activations="int8", repack=True))
        w = cpu.prepare(t, activations="int8", repack=False)
        found = np.concatenate([product(x[i : i + 1], w) for i in range(2)])
        assert found.tobytes() == expected.tobytes(), cols


@pytest.mark.parametrize("name", QUANTISED)
def test_a_row_alone_at_the_ends_of_every_range(name):
    t = tensor(name, extreme_blocks(name, np.random.default_rng(6)), ROWS, 512)
    x = np.zeros((4, 512), np.float32)
    x[1], x[2] = 1, -1
    x[3] = np.where(np.arange(512) % 3, 0.5, 127)
    w = cpu.prepare(t, activations="int8", repack=False)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = int8_product(x, t)
    for i in range(len(x)):
        np.testing.assert_array_equal(product(x[i : i + 1], w)[0], expected[i])


@pytest.mark.parametrize("isa", [name for name in HERE if name != simd.isa()])
@pytest.mark.parametrize("name", QUANTISED)
def test_instruction_sets_agree(name, isa, monkeypatch):
    t = random_tensor(name, np.random.default_rng(1), 16, 512)
    x = np.where(rows(1, 512) > 0, np.float32(1), np.float32(-1))  # codes of 127: the largest sums
    w = cpu.prepare(t, activations="int8", repack=False)
    expected = product(x, w)
    monkeypatch.setattr(simd, "make_ir", lambda builder: simd.Ir(builder, isa, False))
    made = recompiled(one_row(name).product)
    assert field(w, products.D_ONE) != made.address
    w._fields[products.D_ONE // 8] = made.address
    assert product(x, w).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["Q8_0", "IQ4_NL", "IQ4_XS"])
def test_codes_that_fill_a_byte_agree_where_bytes_are_unsigned(name, monkeypatch):
    t = random_tensor(name, np.random.default_rng(4), 16, 512)
    x = rows(1, 512)
    w = cpu.prepare(t, activations="int8", repack=False)
    expected = product(x, w)
    monkeypatch.setattr(simd, "make_ir", lambda builder: Unsigned(builder, "portable", False))
    made = recompiled(one_row(name).product)
    w._fields[products.D_ONE // 8] = made.address
    assert product(x, w).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", QUANTISED)
def test_arm_multiplies_bytes_and_calls_nothing(name):
    text = arm_assembly(one_row(name).emitted)
    assert text.count("sdot") >= 4
    assert "\tbl\t" not in text


EDGES = """
import ctypes, mmap, sys
import numpy as np
from engine.ops import cpu
from engine.weights.tensor import Tensor
from tests.engine.ops.blocks import QUANTISED, random_tensor

page = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
for name in QUANTISED:
    t = random_tensor(name, np.random.default_rng(1), 3, 512)
    inside = -(-t.n_bytes // page) * page
    memory = np.frombuffer(mmap.mmap(-1, inside + 2 * page), np.uint8)
    for end in (0, page + inside):
        at = ctypes.c_void_p(memory.ctypes.data + end)
        assert libc.mprotect(at, ctypes.c_size_t(page), 0) == 0
    x = np.ones((1, 512), np.float32)
    found = []
    for start in (page, page + inside - t.n_bytes):
        data = memory[start : start + t.n_bytes]
        data[:] = t.data
        out = np.empty((1, 3), np.float32)
        held = Tensor(t.name, t.format, t.shape, data)
        cpu.matmul(out, x, cpu.prepare(held, activations="int8", repack=False))
        found.append(out.tobytes())
    assert found[0] == found[1], name
print("all", len(QUANTISED))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect")
def test_nothing_is_read_beside_the_matrix():
    """A matrix may begin or end a mapping; the pages beside it must not be touched."""
    done = subprocess.run([sys.executable, "-c", EDGES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"all {len(QUANTISED)}"


def test_codebooks_fit_their_words():
    """A word holds a row's codes; what it unpacks to are the rows' values."""
    from engine.ops.cpu.one_row import codebooks

    for name in CODEBOOKS:
        book = codebooks._BOOKS.get(name, codebooks._IQ1)
        values = book.rows().view(np.uint8).reshape(len(book.words()), -1)
        for k in range(values.shape[1]):
            codes = book.words() >> np.uint16(book.bits * k) & np.uint16((1 << book.bits) - 1)
            np.testing.assert_array_equal(np.take(book.values, codes), values[:, k])
