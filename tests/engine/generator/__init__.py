"""Tests of `engine.models`."""

import dataclasses

import numpy as np


def as_stored(shape):
    """A shape after a trip through a file, whose floats are binary32."""
    floats = {
        f.name: float(np.float32(getattr(shape, f.name)))
        for f in dataclasses.fields(shape)
        if isinstance(getattr(shape, f.name), float)
    }
    return dataclasses.replace(shape, **floats)
