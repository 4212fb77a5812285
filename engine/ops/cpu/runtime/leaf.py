"""Compiled pieces that call each other by address, and the memory access they need.

A matmul is one driver compiled once, plus a few leaves per format; a leaf is compiled when the
first weight of its format is prepared, so a model pays for the formats that it has.
"""

from __future__ import annotations

from functools import cached_property

import llvmlite.binding
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from engine.ops.cpu.runtime import jit  # sets numba up before anything is compiled

_I64 = ir.IntType(64)


class Leaf:
    """A function of int64 arguments with a C address, compiled on first use and cached on disk."""

    def __init__(self, function):
        self._function = function
        self._n_args = function.__code__.co_argcount

    @cached_property
    def _compiled(self):
        signature = types.void(*[types.int64] * self._n_args)
        return numba.cfunc(signature, cache=jit.KEEP, error_model="numpy")(self._function)

    @property
    def address(self) -> int:
        return self._compiled.address


leaf = Leaf


def _memory(element, numba_type, n_bytes):
    """Intrinsics that load and store one value at an address, unaligned."""

    def load_value(typingctx, address):
        def codegen(context, builder, signature, args):
            got = builder.load(builder.inttoptr(args[0], element.as_pointer()))
            got.align = 1
            return got

        return numba_type(types.int64), codegen

    def store_value(typingctx, address, value):
        def codegen(context, builder, signature, args):
            put = builder.store(args[1], builder.inttoptr(args[0], element.as_pointer()))
            put.align = 1
            return context.get_dummy_value()

        return types.void(types.int64, numba_type), codegen

    return intrinsic(load_value), intrinsic(store_value)


load_i64, store_i64 = _memory(ir.IntType(64), types.int64, 8)
load_i32, store_i32 = _memory(ir.IntType(32), types.int32, 4)
load_u16, store_u16 = _memory(ir.IntType(16), types.uint16, 2)
load_u32, store_u32 = _memory(ir.IntType(32), types.uint32, 4)
load_f32, store_f32 = _memory(ir.FloatType(), types.float32, 4)


def _calling(n_args):
    def call(typingctx, *args):
        def codegen(context, builder, signature, values):
            # numba's cfunc wrapper of a void function returns nothing and takes plain int64.
            kind = ir.FunctionType(ir.VoidType(), [_I64] * n_args)
            builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
            return context.get_dummy_value()

        return types.void(*[types.int64] * (n_args + 1)), codegen

    return call


@intrinsic
def call3(typingctx, fn, a, b, c):
    """Call the leaf at address fn."""
    return _calling(3)(typingctx)


@intrinsic
def call5(typingctx, fn, a, b, c, d, e):
    return _calling(5)(typingctx)


@intrinsic
def call8(typingctx, fn, a, b, c, d, e, f, g, h):
    return _calling(8)(typingctx)


@intrinsic
def fetch_add(typingctx, address, amount):
    """Atomically add to an int64; returns the value before."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], _I64.as_pointer())
        return builder.atomic_rmw("add", pointer, args[1], "monotonic")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def add_release(typingctx, address, amount):
    """Atomically add to an int64 behind everything written so far; returns the value before."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], _I64.as_pointer())
        return builder.atomic_rmw("add", pointer, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def swap_if(typingctx, address, old, new):
    """Atomically replace an int64 that equals `old`; 1 if it did, else 0."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], _I64.as_pointer())
        found = builder.cmpxchg(pointer, args[1], args[2], "seq_cst", "seq_cst")
        return builder.zext(builder.extract_value(found, 1), _I64)

    return types.int64(types.int64, types.int64, types.int64), codegen


@intrinsic
def load_shared(typingctx, address):
    """Load an int64 that other threads write, and see what they wrote before it."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(builder.inttoptr(args[0], _I64.as_pointer()), "seq_cst", 8)

    return types.int64(types.int64), codegen


@intrinsic
def store_shared(typingctx, address, value):
    """Store an int64 that other threads read, behind everything written so far."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], _I64.as_pointer())
        builder.store_atomic(args[1], pointer, "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def pause(typingctx):
    """Wait some nanoseconds and leave the core to its other thread meanwhile."""
    machine = llvmlite.binding.get_process_triple().split("-")[0]

    def codegen(context, builder, signature, args):
        def call(name, *values):
            kind = ir.FunctionType(ir.VoidType(), [v.type for v in values])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)

        if machine in ("x86_64", "i686"):
            call("llvm.x86.sse2.pause")
        elif machine in ("aarch64", "arm64"):
            call("llvm.aarch64.hint", ir.Constant(ir.IntType(32), 1))  # YIELD
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def call1(typingctx, fn, a):
    """Call the C function at address fn; what it returns is dropped."""
    return _calling(1)(typingctx)


@intrinsic
def call2(typingctx, fn, a, b):
    return _calling(2)(typingctx)


@intrinsic
def stack(typingctx, n_bytes):
    """Address of n_bytes (a literal) of this call's stack, aligned to 64."""
    if not isinstance(n_bytes, types.IntegerLiteral):
        return None

    def codegen(context, builder, signature, args):
        # Not alloca_once: that clears, one store per byte, which takes LLVM minutes.
        with builder.goto_entry_block():
            slot = builder.alloca(ir.ArrayType(ir.IntType(8), n_bytes.literal_value))
            slot.align = 64
        return builder.ptrtoint(slot, _I64)

    return types.int64(n_bytes), codegen
