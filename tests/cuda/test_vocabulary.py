"""The CUDA set takes every op of the vocabulary with the parameters that the reference gives it."""

import inspect

import pytest

from engine.ops import reference
from engine.ops.cuda.ops import CudaOps
from tests.engine.ops.test_vocabulary import VOCABULARY


@pytest.mark.parametrize("op", sorted(VOCABULARY))
def test_parameters_are_the_references(op):
    # The first parameter is the set or its context; what follows the reference's is optional.
    _, *actual = inspect.signature(getattr(CudaOps, op)).parameters.values()
    expected = list(inspect.signature(getattr(reference, op)).parameters)

    assert [p.name for p in actual[: len(expected)]] == expected
    assert all(p.default is not p.empty for p in actual[len(expected) :])


def test_fused_ops_are_there():
    assert all(callable(getattr(CudaOps, name)) for name in CudaOps.FUSED)
