"""Choosing a token from one row of an evaluation: first maximum, banned ids, values not finite."""

import numpy as np
import pytest

from engine.errors import NonFiniteError
from engine.ops.cpu import CpuOps
from engine.ops.operands import Logits
from engine.ops.reference import ReferenceOps

NONE = np.empty(0, np.int64)


@pytest.fixture(params=[CpuOps, ReferenceOps])
def ops(request):
    return request.param()


def test_first_of_equal_maxima_in_the_row_that_is_meant(ops):
    rows = np.float32([[9, 0, 0, 0], [1, 5, 5, 2], [0, 0, 0, 9]])

    assert [ops.choose(rows, i, NONE) for i in range(3)] == [0, 1, 3]
    assert Logits(ops, rows, 1).choose(NONE) == 1
    np.testing.assert_array_equal(np.asarray(Logits(ops, rows, 2)), rows[2])


def test_banned_ids_are_not_chosen_and_rows_stay_as_they_are(ops):
    rows = np.float32([[1, 5, 4, 2]])
    before = rows.copy()

    assert ops.choose(rows, 0, np.array([1])) == 2
    assert ops.choose(rows, 0, np.array([1, 2, 3])) == 0
    np.testing.assert_array_equal(rows, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_in_their_row_only(ops, bad):
    rows = np.zeros((2, 8), np.float32)
    rows[1, 3] = bad

    assert ops.choose(rows, 0, NONE) == 0
    with pytest.raises(NonFiniteError, match="at token 3"):
        ops.choose(rows, 1, NONE)
    with pytest.raises(NonFiniteError):
        ops.choose(rows, 1, np.array([3]))  # banned or not
