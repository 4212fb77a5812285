"""Every instruction set's version of a product gives the same bits; Arm's is looked at as code."""

from __future__ import annotations

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from llvmlite import ir as llvm_ir

from engine.errors import BackendError
from engine.ops import cpu
from engine.ops.cpu import products
from engine.ops.cpu.formats import dot_f32
from engine.ops.cpu.formats.weight import leaves
from engine.ops.cpu.simd import ir as simd
from tests.engine.ops.blocks import QUANTISED, random_tensor, tensor
from tests.engine.ops.test_matmul import product, rows

# One format for each way of a family; the others differ from them in tables and places, and are
# compared in one width, since compiling for another instruction set is what takes time.
EVERY_WAY = ("Q8_0", "MXFP4", "Q5_1", "Q2_K", "Q4_K", "Q6_K", "IQ2_XXS", "IQ4_XS")
HERE = [name for name, needs in simd._NEEDS.items() if needs <= simd.target_features()]


def recompiled(leaf):
    """A leaf built anew, past the cache; keep it alive while its address is in use."""
    kind = numba.types.void(*[numba.types.int64] * leaf._n_args)
    return numba.cfunc(kind, error_model="numpy")(leaf._function)


@pytest.fixture
def target(monkeypatch):
    """Sets the instruction set of what is compiled from here on."""

    def choose(isa, half):
        monkeypatch.setattr(simd, "make_ir", lambda builder: simd.Ir(builder, isa, half))

    return choose


@pytest.mark.parametrize("isa", [name for name in HERE if name != simd.isa()])
@pytest.mark.parametrize("name", QUANTISED)
def test_integer_products_agree(name, isa, target):
    t = random_tensor(name, np.random.default_rng(1), 16, 512)
    x = rows(5, 512)
    x[2] = np.where(x[2] > 0, 1, -1)  # codes of 127: the largest sums
    w = cpu.prepare(t, activations="int8", repack=True)
    one, _, four, _ = leaves(name).dots
    places = (products.D_DOT1, products.D_DOT4)[: 1 + (name in EVERY_WAY)]
    x = x if name in EVERY_WAY else x[2:3]
    expected = product(x, w)
    target(isa, False)
    made = [recompiled(dot) for dot in (one, four)[: len(places)]]
    for place, dot in zip(places, made, strict=True):
        assert w._fields[place // 8] != dot.address
        w._fields[place // 8] = dot.address
    found = np.full_like(expected, np.nan)
    cpu.matmul(found, x, w)
    assert found.tobytes() == expected.tobytes()


class Unsigned(simd.Ir):
    """Multiplies unsigned bytes by signed ones, as VNNI does, on any machine."""

    biased = True

    def dot(self, acc, u, x):
        u, x = self.as_dwords(u), self.as_dwords(x)
        for i in range(4):
            acc = self.b.add(acc, self.b.mul(self.byte(u, i), self.byte(x, i, True)))
        return acc


@pytest.mark.parametrize("name", ["Q8_0", "IQ4_NL", "IQ4_XS", "Q3_K", "Q6_K"])
def test_integer_products_agree_where_bytes_are_unsigned(name, monkeypatch):
    """The formats whose codes or scales need a correction there."""
    t = random_tensor(name, np.random.default_rng(4), 16, 512)
    x = rows(1, 512)
    w = cpu.prepare(t, activations="int8", repack=True)
    expected = product(x, w)
    monkeypatch.setattr(simd, "make_ir", lambda builder: Unsigned(builder, "portable", False))
    made = recompiled(leaves(name).dots[0])
    w._fields[products.D_DOT1 // 8] = made.address
    assert product(x, w).tobytes() == expected.tobytes()


@pytest.mark.parametrize("isa", ["portable", *(i for i in ("avx2",) if i in HERE)])
@pytest.mark.parametrize("name", ["Q8_0", "MXFP4", "IQ2_XXS"])
def test_decoding_agrees(name, isa, target):
    t = random_tensor(name, np.random.default_rng(2), 16, 256)
    x = rows(1, 256)
    w = cpu.prepare(t, activations="f32", repack=True)
    expected = product(x, w)
    target(isa, False)
    made = recompiled(leaves(name).decode)
    w._fields[products.D_DECODE // 8] = made.address
    assert product(x, w).tobytes() == expected.tobytes()


def test_every_half_is_decoded_without_the_instruction(target):
    bits = np.arange(1 << 16, dtype=np.uint16)
    t = tensor("F16", bits.view(np.uint8), 256, 256)
    table = cpu.prepare(t, activations="f32", repack=False)
    table.decoding()
    target("portable", False)
    made = recompiled(dot_f32.decode_f16)
    table._fields[products.D_DECODE // 8] = made.address
    state = np.full((256, 1, 256), -1, np.float32)
    cpu.embed_hc(state, np.arange(256, dtype=np.int32), table)
    expected = bits.view(np.float16).astype(np.float32).reshape(256, 1, 256)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(state[finite], expected[finite])
    np.testing.assert_array_equal(np.isnan(state), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(state), np.isinf(expected))


def arm_assembly(emitted) -> str:
    """Assembly for an Arm core with dot products, of one emitted kernel."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm_ir.Module("kernel")
    module.triple = "aarch64-unknown-linux-gnu"
    arguments = list(emitted.emit.__code__.co_varnames[1 : emitted.emit.__code__.co_argcount])
    kind = llvm_ir.FunctionType(llvm_ir.VoidType(), [simd.I64] * len(arguments))
    function = llvm_ir.Function(module, kind, "kernel")
    builder = llvm_ir.IRBuilder(function.append_basic_block())
    emitted.emit(simd.Ir(builder, "neon", True), *function.args)
    builder.ret_void()
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    made = llvm.Target.from_triple(module.triple).create_target_machine(
        cpu="neoverse-n1", features="+dotprod,+fullfp16", opt=2
    )
    return made.emit_assembly(parsed)


@pytest.mark.parametrize("name", QUANTISED)
def test_arm_has_dot_instructions(name):
    text = arm_assembly(leaves(name).emitted["dot4"])
    assert text.count("sdot") >= 64  # 16 lanes are four registers; four rows; four dwords or more
    assert "\tbl\t" not in text  # nothing falls back to a library call
    if name in ("MXFP4", "IQ2_XXS"):
        assert "\ttbl\t" in text


def test_arm_float_kernels_make_no_calls():
    for emitted in (dot_f32._dot8, dot_f32._decode_f16):
        assert "\tbl\t" not in arm_assembly(emitted)


def test_unknown_instruction_set_is_refused(monkeypatch):
    monkeypatch.setenv("DS4_CPU_ISA", "mmx")
    simd.isa.cache_clear()
    try:
        with pytest.raises(BackendError, match=r"DS4_CPU_ISA: expected one of .*portable"):
            simd.isa()
    finally:
        simd.isa.cache_clear()
