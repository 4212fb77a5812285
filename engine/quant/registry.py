"""From bytes to float32 and back for any format: one table over the files of this folder."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from engine.errors import LayoutError
from engine.quant import floats, iq2_xxs, mxfp4, q2_k, q4_k, q8_0
from engine.quant.formats import BY_NAME, Format

_DEQUANTIZE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "F32": floats.dequantize_f32,
    "F16": floats.dequantize_f16,
    "BF16": floats.dequantize_bf16,
    "Q8_0": q8_0.dequantize,
    "Q4_K": q4_k.dequantize,
    "Q2_K": q2_k.dequantize,
    "IQ2_XXS": iq2_xxs.dequantize,
    "MXFP4": mxfp4.dequantize,
}
_QUANTIZE: dict[str, Callable[[np.ndarray, np.ndarray | None], np.ndarray]] = {
    "F32": floats.quantize_f32,
    "F16": floats.quantize_f16,
    "BF16": floats.quantize_bf16,
    "Q8_0": q8_0.quantize,
    "Q4_K": q4_k.quantize,
    "Q2_K": q2_k.quantize,
    "IQ2_XXS": iq2_xxs.quantize,
    "MXFP4": mxfp4.quantize,
}
# Blocks are converted in pieces, so that temporaries stay in the cache and memory is bounded.
_PIECE_VALUES = 1 << 16


def _encoder(name: str) -> Callable[[np.ndarray, np.ndarray | None], np.ndarray]:
    """Encoder of a format that only the `gguf` package can write; importance has no use there."""

    def encode(rows: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
        import gguf
        from gguf import quants

        made = quants.quantize(rows, gguf.GGMLQuantizationType[name])
        return np.ascontiguousarray(made).view(np.uint8).reshape(-1)

    return encode


_QUANTIZE |= {n: _encoder(n) for n in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0")}


def _format(fmt: Format | str) -> Format:
    return BY_NAME[fmt] if isinstance(fmt, str) else fmt


def dequantize(data: np.ndarray, fmt: Format | str, shape: tuple[int, ...]) -> np.ndarray:
    """Values of a tensor.

    Parameters
    ----------
    data : uint8 array of shape (n_bytes,)
    fmt : Format or str
        Native formats are decoded here, any other through `gguf.quants`.
    shape : tuple of int
        Row-major; the last axis is a multiple of the block length.

    Returns
    -------
    float32 array of `shape`
        NaN and infinite scales give what IEEE arithmetic gives.

    Raises
    ------
    LayoutError
        If nothing here can decode the format, or data and shape do not belong together.
    """
    fmt = _format(fmt)
    n = math.prod(shape)
    _check_shape(fmt, shape)
    if data.nbytes != n // fmt.block_len * fmt.block_bytes:
        expected = n // fmt.block_len * fmt.block_bytes
        raise LayoutError(f"{fmt.name} data: expected {expected} bytes, found {data.nbytes}")
    data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    decode = _DEQUANTIZE.get(fmt.name) or _foreign(fmt)
    out = np.empty(n, np.float32)
    step = max(1, _PIECE_VALUES // fmt.block_len)
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, n // fmt.block_len, step):
            piece = data[start * fmt.block_bytes : (start + step) * fmt.block_bytes]
            out[start * fmt.block_len : (start + step) * fmt.block_len] = decode(piece)
    return out.reshape(shape)


def _check_shape(fmt: Format, shape: tuple[int, ...]) -> None:
    if not shape or shape[-1] % fmt.block_len:
        found = shape[-1] if shape else "no axis"
        raise LayoutError(
            f"{fmt.name} columns: expected a multiple of {fmt.block_len}, found {found}"
        )


@lru_cache(maxsize=32)
def _foreign(fmt: Format) -> Callable[[np.ndarray], np.ndarray]:
    """Decoder of a format that only the `gguf` package knows."""
    import gguf
    from gguf import quants

    kind = gguf.GGMLQuantizationType(fmt.type_id)

    def decode(raw: np.ndarray) -> np.ndarray:
        return quants.dequantize(raw.reshape(-1, fmt.block_bytes), kind).reshape(-1)

    try:
        decode(np.zeros(fmt.block_bytes, np.uint8))
    except NotImplementedError:
        raise LayoutError(
            f"tensor type: expected one that can be converted, found {fmt.name!r}"
        ) from None
    return decode


def quantize(
    array: np.ndarray, fmt: Format | str, importance: np.ndarray | None = None
) -> np.ndarray:
    """Bytes of a tensor in a format that has an encoder here or in `gguf.quants`.

    Parameters
    ----------
    array : float32 array of shape (..., n_cols)
        Finite; n_cols a multiple of the block length.
    fmt : Format or str
    importance : float32 array of shape (n_cols,), optional
        Weight of each column's squared error (mean square of the activations that meet it); used
        by Q4_K, Q2_K and IQ2_XXS.

    Returns
    -------
    uint8 array of shape (n_bytes,)

    Raises
    ------
    LayoutError
        If the format has no quantiser, the columns do not fill blocks, or a value is not finite.
    """
    fmt = _format(fmt)
    encode = _QUANTIZE.get(fmt.name)
    if encode is None:
        raise LayoutError(
            f"quantised type: expected one of {', '.join(_QUANTIZE)}, found {fmt.name!r}"
        )
    _check_shape(fmt, array.shape)
    n_cols = array.shape[-1]
    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
        if importance.shape != (n_cols,) or not np.all(importance >= 0):
            raise LayoutError(
                f"importance: expected {n_cols} numbers >= 0, found shape {importance.shape}"
                f" with minimum {importance.min(initial=0)}"
            )
    rows = np.ascontiguousarray(array, np.float32).reshape(-1, n_cols)
    out = np.empty(len(rows) * fmt.row_bytes(n_cols), np.uint8)
    step = max(1, _PIECE_VALUES // n_cols)
    for start in range(0, len(rows), step):
        piece = rows[start : start + step]
        if fmt.block_len > 1 and not np.isfinite(piece).all():
            raise LayoutError(
                f"values to quantise to {fmt.name}: expected finite, found NaN or inf"
            )
        begin = start * fmt.row_bytes(n_cols)
        out[begin : begin + len(piece) * fmt.row_bytes(n_cols)] = encode(piece, importance)
    return out
