"""Weights in device memory: fragment order of the tensor cores, or the file's bytes in place.

`tiled`: rows in tiles of 16, values in units of 32; the bytes that lane 4 g + t of a warp takes
for rows g and g + 8 and values 8t .. 8t+7 of a unit lie together, so a warp reads whole lines.
Per tile, in this order of dimensions:

    Q8_0     codes (unit, lane, 16): g low, g+8 low, g high, g+8 high    scales (unit, row) f16
    MXFP4    codes (unit, lane, 8): a word of nibbles for g, for g+8      scales (unit, row) u8
    Q4_K     codes (block, unit, lane, 8): a word each, nibble 4i+j in bits 8j+4i
             scales (block, row, 16): 8 of s, 8 of m                      factors (block, row) 2 f16
    Q2_K     codes (block, lane, unit, 4): bits 8b+2r are value b of register r
             scales (block, row, half, 8): s | m << 4 of sub-block 2u + half
                                                                          factors (block, row) 2 f16
    IQ2_XXS  codes (block, half, lane, 16): two pairs of units, each a word of the codebook rows
             of unit 2v row g, row g+8, unit 2v+1 row g, row g+8, and a word whose bit 4i+k is
             value i's sign in group k of these; its top nibble is the scale of group t
                                                                          factors (block, row) f16
    F16 BF16 codes (unit, lane, 32): 8 values of g, 8 of g+8
    F32      codes (row, value): as in the file

`raw`: the file's blocks, row by row. Both give the same numbers to the same lanes. Q3_K, Q5_K,
Q6_K, IQ3_XXS, IQ3_S and IQ4_XS have this layout only, copied or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.products.decode_bits import CODEBOOK
from engine.ops.cuda.products.repack import REPACK, THREADS
from engine.ops.cuda.sizes import IN_FILE_ORDER, SIZES, TILE, dims, is_tiled, layout_bytes

PIECE = 64 << 20  # raw bytes uploaded at a time


# Formats whose products take int8 rows, by the values of a block of them.
INT8 = {
    block: tuple(
        n for n, s in SIZES.items() if s.block == block and n not in ("F16", "BF16", "F32")
    )
    for block in (32, 256)
}


@dataclass(frozen=True, slots=True)
class Weight:
    """A matrix, or one per expert, ready for the products.

    Parameters
    ----------
    name, format : str
    rows, cols, n_expert : int
    tiled : bool
    codes, scales, factors : int
        Device addresses; the last two are 0 where the format or layout has none. In the raw
        layout `codes` is the file's first byte.
    strides : tuple of int
        Bytes from one expert to the next in each of the three.
    n_bytes : int
        Device bytes that the copy takes.
    file_bytes : int
        Bytes in the file.
    """

    name: str
    format: str
    rows: int
    cols: int
    n_expert: int
    tiled: bool
    codes: int
    scales: int
    factors: int
    strides: tuple[int, int, int]
    n_bytes: int
    file_bytes: int
    owner: Any = field(repr=False, default=None)

    @property
    def repacked_bytes(self) -> int:
        return self.n_bytes

    @property
    def blocks(self) -> int:
        """Blocks of a row."""
        return -(-self.cols // SIZES[self.format].block)


def codebook(ctx: Context) -> DeviceArray:
    """The codebooks in device memory: 256 rows of 8 bytes, 256 of 4 (IQ3_XXS), 512 of 4 (IQ3_S)."""
    found = getattr(ctx, "_codebook", None)
    if found is None:
        found = ctx.put(np.concatenate([CODEBOOK, _fours("IQ3_XXS"), _fours("IQ3_S")]))
        ctx._codebook = found  # type: ignore[attr-defined]
    return found


def _fours(name: str) -> np.ndarray:
    """A codebook of rows of four magnitudes, two rows an int64 (source: `gguf.quants`)."""
    from gguf import quants

    kind = getattr(quants, name)
    kind.init_grid()
    return np.ascontiguousarray(kind.grid.reshape(-1).astype(np.uint8)).view(np.int64)


def prepare(ctx: Context, tensor: Any, *, place: Any = None) -> Weight:
    """Put a tensor where the products can read it.

    Parameters
    ----------
    tensor : Tensor
        Native format; shape (rows, cols) or (n_expert, rows, cols).
    place : Residency, optional
        Says whether it is copied or read where it is mapped; copied by default.
    """
    codebook(ctx)  # now: the first product may be part of a recorded pass
    n_expert, rows, cols = dims(tensor)
    name, row_bytes = tensor.format.name, tensor.format.row_bytes(cols)
    where = place.place(tensor) if place is not None else None
    if where is not None and where.kind == "mapped":
        stride = rows * row_bytes
        return Weight(
            tensor.name, name, rows, cols, n_expert, False, where.address, 0, 0,
            (stride, 0, 0), 0, tensor.n_bytes,
        )  # fmt: skip
    if tensor.name.endswith(IN_FILE_ORDER) or not is_tiled(name):
        owner = ctx.put(np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8))
        stride = rows * row_bytes
        return Weight(
            tensor.name, name, rows, cols, n_expert, False, owner.address, 0, 0,
            (stride, 0, 0), tensor.n_bytes, tensor.n_bytes, owner,
        )  # fmt: skip
    sizes = layout_bytes(name, rows, cols)
    owner = ctx.empty((n_expert * sum(sizes),), np.uint8)
    codes = owner.address
    scales = codes + n_expert * sizes[0]
    factors = scales + n_expert * sizes[1]
    for expert in range(n_expert):
        data = tensor.data.reshape(n_expert, rows, row_bytes)[expert]
        at = (codes + expert * sizes[0], scales + expert * sizes[1], factors + expert * sizes[2])
        _fill(ctx, name, at, data, rows, cols)
    return Weight(
        tensor.name, name, rows, cols, n_expert, True, codes, scales, factors,
        sizes, n_expert * sum(sizes), tensor.n_bytes, owner,
    )  # fmt: skip


def _fill(
    ctx: Context, name: str, at: tuple[int, int, int], data: np.ndarray, rows: int, cols: int
) -> None:
    """Upload one expert's rows in pieces of whole tiles and tile them on the device."""
    row_bytes = data.shape[1]
    step = max(PIECE // row_bytes // TILE, 1) * TILE
    s = SIZES[name]
    blocks = -(-cols // s.block)
    for start in range(0, rows, step):
        part = np.ascontiguousarray(data[start : start + step])
        tiles = -(-len(part) // TILE)
        skip = start // TILE * blocks
        if name == "F32":
            view = DeviceArray(ctx, at[0] + start * row_bytes, part.shape, np.uint8)
            ctx.upload(view, part)
            continue
        staged = ctx.scratch("raw rows", part.shape, np.uint8)
        ctx.upload(staged, part)
        body, words = REPACK[name]
        count = tiles * blocks * words
        ctx.launch(
            body,
            -(-count // THREADS),
            DeviceArray(ctx, at[0] + skip * s.codes, (1,), np.int32),
            DeviceArray(ctx, at[1] + skip * s.scales, (1,), np.uint8),
            DeviceArray(ctx, at[2] + skip * s.factors, (1,), np.uint16),
            staged,
            len(part),
            blocks,
            row_bytes,
            tiles,
        )


__all__ = ["Weight", "codebook", "prepare"]
