"""Argument blocks: fields in order, by name, and one parameter per field in machine code."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from numba import cuda

from engine.ops.cuda.build.arguments import ArgumentBlock
from engine.ops.cuda.build.compile import registry
from engine.ops.cuda.build.kernel import F32P, I32P, U32, kernel
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.device.program import packer
from tests.cuda.natsim.device import NatsimDevice

BLOCK = ArgumentBlock(
    "Test",
    out=(I32P, "(3,), written"),
    first=(U32, "a number"),
    second=(U32, "another"),
)


@kernel(U32, BLOCK, F32P, threads=32, name="test_block")
def _fields(before, block, unread):
    if cuda.threadIdx.x == 0:
        block.out[0] = before
        block.out[1] = block.first
        block.out[2] = block.second


def test_values_come_in_the_order_of_the_fields():
    assert BLOCK(second=2, out="p", first=1) == ("p", 1, 2)
    assert BLOCK.empty() == (None, 0, 0)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (dict(out=0, first=1), r"\['second: another'\] missing and \[\]"),
        (dict(out=0, first=1, second=2, third=3), r"\[\] missing and \['third'\]"),
    ],
)
def test_other_fields_are_refused(values, found):
    with pytest.raises(TypeError, match=f"Test: expected exactly its fields, found {found}"):
        BLOCK(**values)


def test_a_block_is_one_parameter_of_the_function_and_several_of_the_machine_code():
    assert _fields.args == (U32, I32P, U32, U32, F32P)
    assert len(_fields.parameters) == 3
    assert packer(_fields).size == 8 * 5
    assert _fields.grouped((7, 64, 1, 2, 0)) == (7, (64, 1, 2), 0)


def test_a_kernel_reads_the_fields_of_its_block():
    ctx = Context(NatsimDevice())
    out = ctx.put(np.zeros(3, np.int32))
    ctx.launch(_fields, 1, 7, *BLOCK(out=out, first=8, second=9), None)
    assert np.asarray(out).tolist() == [7, 8, 9]


def test_every_kernel_has_as_many_parameters_as_it_declares():
    for name, known in registry().items():
        taken = len(inspect.signature(known.function).parameters)
        assert taken == len(known.parameters), name
        assert taken <= 14, f"{name}: expected a block of arguments, found {taken} parameters"
