"""How the published model rounds the rows it stores: FP8, FP4, float16 and the Hadamard turn.

Float64 throughout; each rule is written from the format's definition, not from the kernels.
Source: the inference code published with DeepSeek V4 (`act_quant`, `fp4_act_quant`,
`rotate_activation`) and the OCP MX and FP8 formats.
"""

from __future__ import annotations

import numpy as np

FP8_BLOCK = 64
FP4_BLOCK = 32
FP8_FLOOR = 1e-4  # least amax
FP4_FLOOR = 6 * 2.0**-126


def _nearest(x: np.ndarray, bits: int, least: int, top: float) -> np.ndarray:
    """Nearest value with `bits` mantissa bits, ties to even; steps stop shrinking at 2**least."""
    x = np.clip(x, -top, top)
    exponent = np.frexp(x)[1] - 1
    step = np.ldexp(1.0, np.maximum(exponent, least) - bits)
    return np.rint(x / step) * step


def e4m3(x: np.ndarray) -> np.ndarray:
    """Nearest FP8 E4M3FN value of x clamped to +-448 (4 exponent bits, 3 mantissa bits)."""
    return _nearest(x, 3, -6, 448.0)


def e2m1(x: np.ndarray) -> np.ndarray:
    """Nearest FP4 E2M1 value of x clamped to +-6: 0, 0.5, 1, 1.5, 2, 3, 4, 6."""
    return _nearest(x, 1, 0, 6.0)


def _blocks(x: np.ndarray, length: int, floor: float, top: float, nearest) -> np.ndarray:
    """Round trip in blocks along the last axis, each with a power-of-two scale."""
    blocks = x.reshape(*x.shape[:-1], -1, length)
    amax = np.maximum(np.abs(blocks).max(axis=-1, keepdims=True), floor)
    mantissa, exponent = np.frexp(amax / top)
    scale = np.ldexp(1.0, np.where(mantissa == 0.5, exponent - 1, exponent))
    return (nearest(blocks / scale) * scale).reshape(x.shape)


def fp8_round_trip(x: np.ndarray) -> np.ndarray:
    """FP8 E4M3FN in blocks of 64 along the last axis."""
    return _blocks(x, FP8_BLOCK, FP8_FLOOR, 448.0, e4m3)


def fp4_round_trip(x: np.ndarray) -> np.ndarray:
    """FP4 E2M1 in blocks of 32 along the last axis."""
    return _blocks(x, FP4_BLOCK, FP4_FLOOR, 6.0, e2m1)


def f16_round_trip(x: np.ndarray) -> np.ndarray:
    """IEEE float16, infinity beyond its range."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float64)


def hadamard(x: np.ndarray) -> np.ndarray:
    """Walsh-Hadamard transform of the last axis (a power of two), natural order, orthonormal."""
    d = x.shape[-1]
    assert d & (d - 1) == 0, d
    signs = np.array([[1.0]])
    while len(signs) < d:
        signs = np.block([[signs, signs], [signs, -signs]])
    return x @ signs / np.sqrt(d)
