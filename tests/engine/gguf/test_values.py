"""Getters of metadata: defaults for absent keys, errors for wrong ones."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import LayoutError
from engine.gguf.values import Metadata, describe

VALUES = {"n": 7, "x": 0.5, "b": True, "s": "text", "i": np.array([1, 2], "<u8")}
GETTERS = [
    ("get_u32", ("n",), (0, 9)),
    ("get_f32", ("x",), (0.0, 1.0)),
    ("get_bool", ("b",), ()),
    ("get_str", ("s",), ()),
    ("get_strings", (), ()),
    ("get_ints", ("i",), (0, 9)),
    ("get_floats", (), (0.0, 1.0)),
]


@pytest.mark.parametrize(("getter", "right", "limits"), GETTERS)
def test_getter(getter, right, limits):
    metadata = Metadata(VALUES, {}, "m.gguf")
    get = getattr(metadata, getter)

    assert get("absent", *limits, default=None) is None
    with pytest.raises(LayoutError, match=r"m\.gguf: absent: expected .*, found no such key"):
        get("absent", *limits)
    for key in VALUES:
        if key in right:
            np.testing.assert_array_equal(get(key, *limits, default=None), VALUES[key])
        else:
            # A default stands in for an absent key, never for a wrong one.
            with pytest.raises(LayoutError, match=rf"m\.gguf: {key}: expected "):
                get(key, *limits, default=None)


def test_long_values_are_cut_in_messages():
    assert describe("x" * 1000) == "'" + "x" * 56 + "..."
    assert describe("\x1b[2J") == r"'\x1b[2J'"
