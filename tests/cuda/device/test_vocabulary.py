"""The CUDA set takes every op of `Backend` with the parameters that the protocol gives it."""

import inspect

import pytest

from engine.ops.base import Backend
from engine.ops.cuda.ops import CudaOps
from engine.ops.device import Device
from tests.engine.ops.test_vocabulary import VOCABULARY, parameters, shapes


@pytest.mark.parametrize("name", sorted(VOCABULARY))
def test_parameters_are_the_protocols(name):
    # Ops follow the protocol's parameters by optional ones of their own.
    actual, expected = parameters(CudaOps, name), VOCABULARY[name]

    assert shapes(actual[: len(expected)]) == shapes(expected)
    assert all(p.default is not p.empty for p in actual[len(expected) :])


def test_no_method_is_the_protocols_own():
    for name in VOCABULARY:
        found = inspect.getattr_static(CudaOps, name)
        assert found is not vars(Device).get(name) and found is not vars(Backend).get(name), name
