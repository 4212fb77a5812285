"""Random blocks of every native format, and what `gguf.quants` says they mean."""

from __future__ import annotations

import gguf
import gguf.quants
import numpy as np

from engine.quant.formats import BY_NAME, KERNELS
from engine.weights.tensor import Tensor

FORMATS = KERNELS["cpu"]
QUANTISED = tuple(n for n in FORMATS if BY_NAME[n].block_len > 1)
# byte offsets of the f16 scale and minimum of a block
SCALE_AT = {n: 0 for n in QUANTISED if n not in ("MXFP4", "NVFP4", "IQ1_M")}
SCALE_AT |= {"Q2_K": 80, "Q3_K": 108, "Q6_K": 208, "TQ1_0": 52, "TQ2_0": 64}
MIN_AT = {"Q4_K": 2, "Q5_K": 2, "Q2_K": 82, "Q4_1": 2, "Q5_1": 2}
PLUS = ("Q4_1", "Q5_1")  # whose second f16 is added to a value, not taken off
# What a scale must be for a block to mean whole numbers.
UNIT = {"IQ2_XXS": 8, "IQ2_XS": 8, "IQ2_S": 8, "IQ3_XXS": 4, "IQ1_S": 8, "IQ1_M": 8}


def random_blocks(name: str, n_values: int, rng) -> np.ndarray:
    """uint8 (n_blocks, block_bytes): codes over their whole range, scales near 0.01."""
    form = BY_NAME[name]
    n = n_values // form.block_len
    if name in ("F32", "F16", "BF16"):
        values = rng.standard_normal(n).astype(np.float32)
        if name == "F16":
            return values.astype(np.float16).view(np.uint8).reshape(n, 2)
        if name == "BF16":
            return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(n, 2)
        return values.view(np.uint8).reshape(n, 4)
    raw = rng.integers(0, 256, (n, form.block_bytes), dtype=np.uint8)
    put_scale(name, raw, rng.standard_normal(n) * 0.01)
    if name in MIN_AT:
        put_half(raw, MIN_AT[name], rng.standard_normal(n) * 0.01)
    if name == "MXFP4":
        raw[:, 0] = rng.integers(116, 124, n)
    if name == "NVFP4":
        raw[:, :4] = rng.integers(0, 40, (n, 4))
    return raw


def put_half(raw: np.ndarray, at: int, values) -> None:
    halves = np.broadcast_to(np.asarray(values, np.float16), (len(raw),))
    raw[:, at : at + 2] = np.ascontiguousarray(halves).view(np.uint8).reshape(-1, 2)


def put_scale(name: str, raw: np.ndarray, values) -> None:
    """Set the f16 factor of every block, where the format has one."""
    if name in SCALE_AT:
        put_half(raw, SCALE_AT[name], values)
    elif name == "IQ1_M":  # the high four bits of four words
        halves = np.broadcast_to(np.asarray(values, np.float16), (len(raw),)).view(np.uint16)
        for k in range(4):
            high = (halves >> np.uint16(4 * k)).astype(np.uint8) << 4
            raw[:, 49 + 2 * k] = raw[:, 49 + 2 * k] & 15 | high


def scale_of(name: str, raw: np.ndarray) -> np.ndarray:
    """The f16 factor of every block as float32."""
    if name == "IQ1_M":
        words = raw[:, 48:56].copy().view(np.uint16) >> np.uint16(12)
        bits = words[:, 0] | words[:, 1] << 4 | words[:, 2] << 8 | words[:, 3] << 12
        return bits.astype(np.uint16).view(np.float16).astype(np.float32)
    at = SCALE_AT[name]
    return raw[:, at : at + 2].copy().view(np.float16).astype(np.float32).reshape(-1)


def tensor(name: str, raw: np.ndarray, *shape: int) -> Tensor:
    return Tensor(f"test.{name}", BY_NAME[name], shape, np.ascontiguousarray(raw).reshape(-1))


def random_tensor(name: str, rng, *shape: int) -> Tensor:
    return tensor(name, random_blocks(name, int(np.prod(shape)), rng), *shape)


def dequantised(t: Tensor) -> np.ndarray:
    """float32 values of a tensor, by gguf.quants."""
    rows = t.data.reshape(int(np.prod(t.shape[:-1])), -1)
    if t.format.name == "F32":
        return rows.view(np.float32).reshape(t.shape)
    kind = gguf.GGMLQuantizationType[t.format.name]
    return gguf.quants.dequantize(rows, kind).reshape(t.shape)


def integer_parts(t: Tensor):
    """What an integer product needs of a 2-D quantised tensor, out of gguf.quants alone.

    With its scale set to one, a block dequantises to its integer weights; with the scale zero and
    the minimum minus one, to its integer minima.

    Returns
    -------
    weights, minima : float64 (rows, cols), exact integers; minima is None without such a field
    scale, low : float32 (rows, n_blocks); low is None where minima is
    """
    name, (rows, cols) = t.format.name, t.shape
    raw = t.data.reshape(-1, t.format.block_bytes)

    def half(at):
        return raw[:, at : at + 2].copy().view(np.float16).astype(np.float32).reshape(rows, -1)

    def meaning(changed):
        return dequantised(tensor(name, changed, rows, cols)).astype(np.float64)

    ones = raw.copy()
    if name == "MXFP4":
        e = raw[:, 0].astype(np.int64)
        scale = np.ldexp(np.float32(1), e - 128).astype(np.float32).reshape(rows, -1)
        ones[:, 0] = 128
        return meaning(ones), None, scale, None
    if name == "NVFP4":
        one = gguf.quants.NVFP4.ue4m3_to_fp32(np.uint8([64]))[0]
        scale = gguf.quants.NVFP4.ue4m3_to_fp32(raw[:, :4]).astype(np.float32)
        ones[:, :4] = 64
        return meaning(ones) / one, None, scale.reshape(rows, -1), None
    unit = UNIT.get(name, 1)
    scale = scale_of(name, raw).reshape(rows, -1) / np.float32(unit)
    put_scale(name, ones, unit)
    if name not in MIN_AT:
        return meaning(ones), None, scale, None
    put_half(ones, MIN_AT[name], 0)
    minima, sign = raw.copy(), 1 if name in PLUS else -1
    put_half(minima, SCALE_AT[name], 0)
    put_half(minima, MIN_AT[name], sign)
    return meaning(ones), meaning(minima), scale, half(MIN_AT[name]) * np.float32(-sign)


def quantised_rows(x: np.ndarray, block: int):
    """int8 activations as the kernels define them: codes (float64) and f32 block scales."""
    n, cols = x.shape
    blocks = x.reshape(n, cols // block, block)
    amax = np.abs(blocks).max(2).astype(np.float32)
    tiny = amax < np.float32(2.0**-120)
    with np.errstate(divide="ignore", over="ignore"):
        scale = np.where(tiny, np.float32(0), amax / np.float32(127))
        inverse = np.where(tiny, np.float32(0), np.float32(127) / amax)
    codes = np.rint(blocks * inverse[:, :, None]).astype(np.float64)
    return codes, scale


def _fma(a, b, c):
    """float32 fma: the long double product of two f32 is exact, its sum rounds at 64 bits."""
    return (np.longdouble(a) * np.longdouble(b) + np.longdouble(c)).astype(np.float32)


def int8_product(x: np.ndarray, t: Tensor) -> np.ndarray:
    """x @ w.T in the documented int8 arithmetic, in NumPy; float32 (n, rows)."""
    # A block of NVFP4 has four scales; two blocks of activations meet it.
    block, per = (32, 2) if t.format.name == "NVFP4" else (t.format.block_len, 1)
    weights, minima, scale, low = integer_parts(t)
    codes, dx = quantised_rows(x, block)
    out = np.zeros((len(x), t.shape[0]), np.float32)
    for b in range(codes.shape[1]):
        part = slice(b * block, (b + 1) * block)
        size = block // per
        for k in range(per):
            some = slice(b * block + k * size, b * block + (k + 1) * size)
            total = (codes[:, b, k * size : (k + 1) * size] @ weights[:, some].T).astype(np.float32)
            out = _fma(total, scale[None, :, b * per + k] * dx[:, None, b], out)
        if minima is not None:
            total = (codes[:, b] @ minima[:, part].T).astype(np.float32)
            out = _fma(total, -low[None, :, b] * dx[:, None, b], out)
    return out
