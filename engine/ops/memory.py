"""What a kernel set takes of memory, computed from sizes; nothing is compiled or allocated.

`Footprint` is what a plan of memory asks of a kernel set. The sets in host memory answer here,
so that a dry run need not load numba; the CUDA set's answers stand in `engine.ops.cuda.memory`.
`tests/engine/test_memory_plan.py` holds every answer against what the sets really allocate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from engine.quant.formats import Format
    from engine.shape import Shape
    from engine.weights.bind import TrunkWeights

F32 = 4  # bytes of a float32, and of an int32
# The CPU set's working memory grows ahead of need by this (`engine.ops.cpu.runtime.jobs.scratch`).
SPARE_SHARE, SPARE_BYTES = 4, 65536 + 64
_LANES = 16  # rows that lie together in a panel of a repacked weight and of indexer rows
_JOB_BYTES = 128
# Bytes that 16 rows take per block of a repacked weight (`engine.ops.cpu.formats`).
_PANELS = {
    "F32": 64,
    "F16": 32,
    "BF16": 32,
    "Q8_0": 32 + 8 * 64,
    "MXFP4": 16 + 4 * 64,
    "NVFP4": 9 * 64,
    "IQ4_NL": 32 + 4 * 64,
    "Q4_0": 32 + 4 * 64,
    "Q4_1": 64 + 4 * 64,
    "Q5_0": 32 + 5 * 64,
    "Q5_1": 64 + 5 * 64,
    "Q2_K": 21 * 64,
    "Q3_K": 28 * 64,
    "Q4_K": 36 * 64,
    "Q5_K": 44 * 64,
    "Q6_K": 53 * 64,
    "TQ1_0": 17 * 64,
    "TQ2_0": 17 * 64,
    "IQ1_S": 34 * 64,
    "IQ1_M": 35 * 64,
    "IQ2_XXS": 34 * 64,
    "IQ2_XS": 35 * 64,
    "IQ2_S": 35 * 64,
    "IQ3_XXS": 34 * 64,
    "IQ3_S": 34 * 64,
    "IQ4_XS": 35 * 64,
}
_ROPE_BLOCK, _ROPE_BLOCKS = 1024, 8  # positions of a block of angles, blocks kept per table


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix, or one per expert, as a kernel set is given it: sizes without bytes.

    Parameters
    ----------
    name : str
    format : Format
        One that the set has kernels for.
    n_expert, rows, cols : int
        `n_expert` is 1 for a plain matrix.
    """

    name: str
    format: Format
    n_expert: int
    rows: int
    cols: int

    @property
    def n_bytes(self) -> int:
        """Bytes as stored."""
        return self.n_expert * self.rows * self.format.row_bytes(self.cols)


class Footprint(Protocol):
    """Bytes that a kernel set takes, by purpose."""

    def kv_bytes(self, cap: int, dim: int, official: bool) -> int:
        """Of `new_kv_rows`."""

    def index_bytes(self, cap: int, dim: int, official: bool) -> int:
        """Of `new_index_rows`."""

    def table_bytes(self, n_positions: int, n_rot: int) -> int:
        """Most that a `rope_table` of n_positions holds."""

    def working_bytes(
        self, shape: Shape, trunk: TrunkWeights, rows: int, ctx: int, official: bool
    ) -> int:
        """Most that the kernels of a pass hold for themselves.

        Parameters
        ----------
        rows : int
            Tokens of the longest pass.
        ctx : int
            Tokens of the context.
        """


class HostFootprint:
    """Rows and angles of the sets that compute in host memory: float32, whatever is stored."""

    def kv_bytes(self, cap: int, dim: int, official: bool) -> int:
        return cap * dim * F32

    def table_bytes(self, n_positions: int, n_rot: int) -> int:
        blocks = min(-(-n_positions // _ROPE_BLOCK), _ROPE_BLOCKS)
        return blocks * _ROPE_BLOCK * n_rot * F32


class ReferenceFootprint(HostFootprint):
    """Of `engine.ops.reference`: weights and indexer rows in float64."""

    def index_bytes(self, cap: int, dim: int, official: bool) -> int:
        return 8 * cap * dim

    def working_bytes(
        self, shape: Shape, trunk: TrunkWeights, rows: int, ctx: int, official: bool
    ) -> int:
        """Float64 copies of what the feed-forward of one chosen expert at a time computes."""
        return 8 * rows * (shape.n_embd + 3 * shape.n_ff_exp)

    def weight_bytes(self, matrices: Iterable[Matrix]) -> int:
        """Of the dequantised matrices."""
        return sum(8 * m.n_expert * m.rows * m.cols for m in matrices)


class CpuFootprint(HostFootprint):
    """Of `engine.ops.cpu`."""

    def index_bytes(self, cap: int, dim: int, official: bool) -> int:
        groups = -(-cap // _LANES)
        row = dim + dim // 32 * F32 if official else dim * F32
        return groups * _LANES * row

    def working_bytes(
        self, shape: Shape, trunk: TrunkWeights, rows: int, ctx: int, official: bool
    ) -> int:
        """The largest op's memory, with the quarter by which it grows ahead.

        The routed experts of a wide chunk need most; the grouped output projection may, where a
        model routes each token to few experts.
        """
        used, groups = shape.n_expert_used, shape.n_out_group
        most = product_bytes(groups, rows * groups, shape.group_dim)
        most = max(most, product_bytes(1, rows, max(shape.n_hc * shape.n_embd, shape.n_lora_q)))
        for layer in trunk.layers:
            n_ff, n_embd = layer.ffn_gate_exps.shape[-2:]
            most = max(most, experts_bytes(rows, used, shape.n_expert, n_ff, n_embd))
            n_shared = layer.ffn_gate_shexp.shape[-2]
            most = max(most, experts_bytes(rows, 1, 1, n_shared, n_embd))
        return most + most // SPARE_SHARE + SPARE_BYTES

    def repacked_bytes(self, matrices: Iterable[Matrix]) -> int:
        """Of the interleaved copies of all matrices."""
        return sum(map(panels_bytes, matrices))


def panels_bytes(m: Matrix) -> int:
    """Bytes of a repacked copy: per group of 16 rows one panel."""
    blocks = m.cols // m.format.block_len
    panel = -(-blocks * _PANELS[m.format.name] // 64) * 64
    return m.n_expert * -(-m.rows // _LANES) * panel


def product_bytes(n_pairs: int, n: int, cols: int) -> int:
    """Working memory of a product of n rows with n_pairs weights (jobs, tables, all kinds)."""
    return _JOB_BYTES * (n_pairs + 4) + n * (4 * cols + 512) + 1024


def experts_bytes(n: int, used: int, n_expert: int, n_ff: int, n_embd: int) -> int:
    """Working memory of the experts' feed-forward on n rows, `used` experts for each.

    Per expert an offset; per chosen expert of a row its place and its rows; jobs; quantised rows.
    """
    m = n * used
    return (
        8 * n_expert
        + 64 * m
        + 4 * m * (n_ff + max(n_ff, n_embd))
        + _JOB_BYTES * (2 * min(n_expert, m) + 8)
        + 2 * product_bytes(1, n, n_embd)
        + product_bytes(1, m, n_ff)
        + 4096
    )


def values_bytes(shape: tuple[int, ...], size: int = F32) -> int:
    """Bytes of an array of this shape, alignment aside."""
    return math.prod(shape) * size
