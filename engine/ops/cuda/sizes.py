"""Sizes that kernels are written for and that plans of memory count with, and layouts of copies.

Kernels and `engine.ops.cuda.memory` read the same names here. This module imports neither numba
nor a driver, so that a plan for a named machine needs none of the packages of the `cuda` extra.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Limits of what the kernels compute; `engine.weights.support` refuses models beyond them.
MAX_EXPERTS, MAX_USED = 256, 8  # experts of the router
STREAMS = 4  # of hyper-connections
MAX_DIM = 512  # of a head
MOST = 0x7FFF  # rows that a query chooses are fewer
OFFICIAL_DIMS = (64, 128, 256)  # of indexer rows that are FP4 values
PACKED_DIM = 128  # dims of indexer rows that are kept as bfloat16

# Attention
CHUNK = 32  # entries of a query's list that one part covers
SPLIT_ROWS = 16  # calls of up to this many rows are split into chunks
SPLIT_BYTES = 64 << 20  # of chunks' results at most; rows whose are more come in turns

# Choice of compressed rows
SELECT_THREADS = 1024
HELD = 16  # scores of a thread that stay in registers
PIECE = HELD * SELECT_THREADS  # rows of one block, where there are more than it can hold
SCORE_BYTES = 64 << 20  # of the scores at hand

# Hyper-connections
COLUMNS = 64  # of a block, in every stream

# Products
TILE = 16  # rows
UNIT = 32  # values
WIDTH = 32  # pairs of a sorted tile
PAD_FEW, PAD_MANY = 16, 64  # columns of a product's block for up to 16 rows, and for more
# Looked up row by row, never multiplied with.
IN_FILE_ORDER = ("token_embd.weight", "markov_w1.weight")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes per tile of 16 rows and block of `block` values: codes, scales, factors."""

    block: int
    codes: int
    scales: int
    factors: int


SIZES = {
    "Q8_0": Sizes(32, 512, 32, 0),
    "MXFP4": Sizes(32, 256, 16, 0),
    "Q4_K": Sizes(256, 2048, 256, 64),
    "Q2_K": Sizes(256, 1024, 256, 64),
    "IQ2_XXS": Sizes(256, 1024, 0, 32),
    "F16": Sizes(32, 1024, 0, 0),
    "BF16": Sizes(32, 1024, 0, 0),
    "F32": Sizes(32, 2048, 0, 0),
    # Multiplied as the file has them: no tiles.
    **{n: Sizes(256, 0, 0, 0) for n in ("Q3_K", "Q5_K", "Q6_K", "IQ3_XXS", "IQ3_S", "IQ4_XS")},
}


def padded(n: int) -> int:
    """Rows that the products may touch when there are n."""
    pad = PAD_FEW if n <= PAD_FEW else PAD_MANY
    return -(-n // pad) * pad


def dims(tensor: Any) -> tuple[int, int, int]:
    """Experts (1 of a plain matrix), rows and columns of a tensor."""
    n_expert, rows, cols = (1, *tensor.shape)[-3:]
    return n_expert, rows, cols


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // 256) * 256


def layout_bytes(name: str, rows: int, cols: int) -> tuple[int, int, int]:
    """Bytes of one expert's codes, scales and factors, each a multiple of 256."""
    s = SIZES[name]
    count = -(-rows // TILE) * -(-cols // s.block)
    return _aligned(count * s.codes), _aligned(count * s.scales), _aligned(count * s.factors)


def is_tiled(name: str) -> bool:
    """Whether copies of a format are arranged in tiles."""
    return SIZES[name].codes > 0


def repack_bytes(tensor: Any) -> int:
    """Device bytes that a copy takes: tiled, or as in the file where the format has no tiles."""
    n_expert, rows, cols = dims(tensor)
    if not is_tiled(tensor.format.name):
        return n_expert * rows * int(tensor.format.row_bytes(cols))
    return n_expert * sum(layout_bytes(tensor.format.name, rows, cols))
