"""Helpers of the row ops' tests: poisoned outputs, bits, and calls cut into pieces."""

from __future__ import annotations

import numpy as np

POISON = 0xFF  # bytes that read as NaN, or as -1


def poisoned(ctx, shape, dtype=np.float32):
    """Device memory whose every value is wrong until an op writes it."""
    array = ctx.empty(shape, dtype)
    ctx.device.fill(array.address, POISON, array.nbytes)
    return array


def bits(values):
    """Bits of float32 values, so that equality means the same bits (NaN too)."""
    return np.ascontiguousarray(np.asarray(values)).view(np.uint32)


def same_bits(x, y):
    return np.array_equal(bits(x), bits(y))


def relative(found, expected):
    """Largest error relative to the row's largest magnitude."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape and np.isfinite(found).all()
    top = np.abs(expected).max(axis=-1, keepdims=True)
    return float((np.abs(found - expected) / np.where(top == 0, 1, top)).max())


def angles(rng, positions, half):
    """Tables of cosines and sines of arbitrary angles, one row per position."""
    phase = rng.uniform(-np.pi, np.pi, (positions, half))
    return np.cos(phase).astype(np.float32), np.sin(phase).astype(np.float32)
