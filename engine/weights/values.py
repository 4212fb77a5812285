"""Checks of values that no shape shows: NaN and infinity in scales, ids that index tables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.gguf.tensor import Tensor
from engine.quant.formats import Format

# Byte offsets of the float16 scales within a block (source: GGML's block structures).
_F16_SCALES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q8_1": (0, 2),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ2_XXS": (0,),
    "IQ2_XS": (0,),
    "IQ3_XXS": (0,),
    "IQ1_S": (0,),
    "IQ4_NL": (0,),
    "IQ3_S": (0,),
    "IQ2_S": (0,),
    "IQ4_XS": (0,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
}
# Per plain float format: integer of the same width, bits of the exponent.
_EXPONENT: dict[str, tuple[np.dtype, int]] = {
    "F16": (np.dtype("<u2"), 0x7C00),
    "BF16": (np.dtype("<u2"), 0x7F80),
    "F32": (np.dtype("<u4"), 0x7F800000),
    "F64": (np.dtype("<u8"), 0x7FF << 52),
}
_CHUNK = 1 << 22  # bytes looked at in one NumPy call, so that temporaries stay in the cache


def scan_values(tensor: Tensor, progress: Callable[[int], None] | None = None) -> str | None:
    """Look for NaN and infinity in a tensor's floats or block scales.

    Parameters
    ----------
    tensor : Tensor
    progress : callable, optional
        Called with the bytes that were looked at since the last call.

    Returns
    -------
    str or None
        What was found and where, or None when every scale is finite.
    """
    fmt = tensor.format
    step = max(1, _CHUNK // fmt.block_bytes)
    blocks = tensor.data.reshape(-1, fmt.block_bytes)
    for first in range(0, len(blocks), step):
        looked_at = blocks[first : first + step]
        bad = _bad_blocks(fmt, looked_at)
        if progress is not None:
            progress(looked_at.nbytes)
        if bad is not None:
            what = "value" if fmt.block_len == 1 else "block scale"
            return f"NaN or infinity in {what} {first + bad} of {len(blocks)}"
    return None


def _bad_blocks(fmt: Format, blocks: np.ndarray) -> int | None:
    """Index of the first block whose scale is not finite."""
    if fmt.name in _EXPONENT:
        dtype, mask = _EXPONENT[fmt.name]
        return _first(blocks.reshape(-1).view(dtype), mask)
    if fmt.name == "MXFP4":
        # From 2^(253-127) on the largest element, 6 times the scale, leaves float32; 255 is NaN.
        high = blocks[:, 0] >= 253
        return int(np.argmax(high)) if high.any() else None
    if fmt.name == "Q8_K":
        return _first(_field(blocks, 0, "<u4"), 0x7F800000)
    if fmt.name == "IQ1_M":
        # The scale's four nibbles are the high ones of four uint16 behind the quants.
        parts = [_field(blocks, 48 + 2 * i, "<u2") & 0xF000 for i in range(4)]
        scale = parts[0] >> 12 | parts[1] >> 8 | parts[2] >> 4 | parts[3]
        return _first(scale, 0x7C00)
    hits = [_first(_field(blocks, at, "<u2"), 0x7C00) for at in _F16_SCALES.get(fmt.name, ())]
    return min((hit for hit in hits if hit is not None), default=None)


def _field(blocks: np.ndarray, at: int, code: str) -> np.ndarray:
    """Strided view of one field of every block."""
    dtype = np.dtype({"names": ["x"], "formats": [code], "offsets": [at],
                      "itemsize": blocks.shape[1]})  # fmt: skip
    return blocks.reshape(-1).view(dtype)["x"]


def _first(values: np.ndarray, mask: int) -> int | None:
    """First element in which every bit of the mask is set."""
    masked = values & values.dtype.type(mask)
    if masked.max(initial=0) != mask:
        return None
    return int(np.argmax(masked == mask))


def scan_ids(tensor: Tensor, n: int) -> str | None:
    """Look for an int32 outside [0, n); returns what was found and where, or None."""
    ids = tensor.data.view("<i4")
    # As unsigned, a negative id is larger than any n.
    if ids.size == 0 or ids.view("<u4").max() < n:
        return None
    at = int(np.argmax(ids.view("<u4") >= n))
    return f"{ids[at]} in row {at // tensor.shape[-1]}"
