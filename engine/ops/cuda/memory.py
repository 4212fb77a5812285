"""What the CUDA kernel set takes of a device's memory, computed from sizes before it is taken.

Kept apart from the kernels: nothing here launches or allocates. Where weights go depends on how
much of the device is free, so that their bytes can only be planned for a device that is open.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Sequence
from typing import Any

from engine.ops.cuda.device.residency import machine_of, spans_of
from engine.ops.cuda.sizes import (
    CHUNK,
    COLUMNS,
    IN_FILE_ORDER,
    PACKED_DIM,
    PIECE,
    SCORE_BYTES,
    SPLIT_BYTES,
    SPLIT_ROWS,
    WIDTH,
    padded,
    repack_bytes,
)
from engine.ops.memory import F32
from engine.shape import Shape
from engine.weights.bind import LayerWeights, TrunkWeights
from engine.weights.residency import plan, settings_from
from engine.weights.tensor import Tensor

HEAD_ROWS = 64  # rows of logits computed at a time


class CudaFootprint:
    """Of `engine.ops.cuda`."""

    def kv_bytes(self, cap: int, dim: int, official: bool) -> int:
        return cap * dim * (2 if official else F32)

    def index_bytes(self, cap: int, dim: int, official: bool) -> int:
        return cap * dim * (2 if official and dim == PACKED_DIM else F32)

    def table_bytes(self, n_positions: int, n_rot: int) -> int:
        return n_positions * n_rot * F32

    def working_bytes(
        self, shape: Shape, trunk: TrunkWeights, rows: int, ctx: int, official: bool
    ) -> int:
        """Sum over the names of `Context.scratch`: each is kept once it was used.

        A recorded pass keeps what it works in when a larger one gets more: so do passes of one
        row, of a verification's up to 16, and of a chunk.
        """
        s, total = shape, 0
        for n in sorted({1, min(16, rows), rows}):
            total += _attention_bytes(s, n, ctx, official)
            total += n * (s.hc_mix + 1) * -(-s.n_embd // COLUMNS) * F32
            total += _experts_bytes(s, trunk, n)
            total += _forms_bytes(s, trunk, n)
        return total


def _attention_bytes(s: Shape, rows: int, ctx: int, official: bool) -> int:
    """Parts of split attention, scores of indexer rows, queries in half the bytes."""
    ratios = [r for r in s.compress_ratios if r]
    seen = [s.n_swa] + [s.n_swa + (s.idx_top_k if r == 4 else ctx // r + 1) for r in ratios]
    part = max(-(-n // CHUNK) for n in seen) * s.n_head * (s.head_dim + 2) * F32
    total = max(min(rows * part, SPLIT_BYTES), part) if rows <= SPLIT_ROWS else 0
    if 4 in ratios:
        cap = ctx // 4 + 1
        at_once = max(min(rows, SCORE_BYTES // (cap * F32)), 1)
        total += at_once * cap * F32
        if cap > PIECE:  # what the pieces of a query's rows pick, and its scores
            total += at_once * -(-cap // PIECE) * (s.idx_top_k + 1) * 2 * F32
        if official and s.idx_head_dim == PACKED_DIM:
            total += rows * s.n_idx_head * s.idx_head_dim * 2
    return total


def _experts_bytes(s: Shape, trunk: TrunkWeights, rows: int) -> int:
    """Rows of the chosen experts, of the shared one, and the order in which pairs are taken."""
    m = rows * s.n_expert_used
    n_ff = max(layer.ffn_gate_exps.shape[-2] for layer in trunk.layers)
    n_shared = max(layer.ffn_gate_shexp.shape[-2] for layer in trunk.layers)
    pairs = m * (n_ff + s.n_embd) + rows * (2 * n_shared + s.n_embd)
    return pairs * F32 + m * F32 + (m // WIDTH + s.n_expert) * 3 * F32


def _forms_bytes(s: Shape, trunk: TrunkWeights, n: int) -> int:
    """Quantised or split rows of every array that is multiplied with weights, for passes of n."""
    inputs: dict[str, tuple[int, int, set[str]]] = {}

    def add(name: str, rows: int, cols: int, *tensors: Tensor | None) -> None:
        formats = inputs.setdefault(name, (rows, cols, set()))[2]
        for tensor in tensors:
            if tensor is not None:
                formats.add(tensor.format.name)

    for layer in trunk.layers:
        add("flat", n, s.n_hc * s.n_embd, layer.hc_attn_fn, layer.hc_ffn_fn)
        add("a", n, s.n_embd, *_read_by_layer(layer))
        add("q_a", n, s.n_lora_q, layer.attn_q_b, layer.indexer_attn_q_b)
        add("heads", n * s.n_out_group, s.group_dim, layer.attn_output_a)
        add("low", n, s.n_lora_o * s.n_out_group, layer.attn_output_b)
        add("middle", n * s.n_expert_used, layer.ffn_down_exps.shape[-1], layer.ffn_down_exps)
        add("shared", n, layer.ffn_down_shexp.shape[-1], layer.ffn_down_shexp)
    add("head", min(n, HEAD_ROWS), s.n_embd, trunk.output)
    return sum(
        padded(rows) * sum(_form_bytes(kind, cols) for kind in set(map(_kind, formats)))
        for rows, cols, formats in inputs.values()
    )


def _read_by_layer(layer: LayerWeights) -> list[Tensor | None]:
    """Weights that take the normalised input of a sublayer."""
    return [
        layer.attn_q_a, layer.attn_kv, layer.attn_compressor_kv, layer.attn_compressor_gate,
        layer.indexer_proj, layer.indexer_compressor_kv, layer.indexer_compressor_gate,
        layer.ffn_gate_inp, layer.ffn_gate_exps, layer.ffn_up_exps, layer.ffn_gate_shexp,
        layer.ffn_up_shexp,
    ]  # fmt: skip


def _kind(name: str) -> str:
    """Form of the rows that weights of a format are multiplied with."""
    if name in ("Q8_0", "MXFP4"):
        return "int8 32"
    return name if name in ("F32", "F16", "BF16") else "int8 256"


def _form_bytes(kind: str, cols: int) -> int:
    """Bytes of one row in a form, its scales included; float32 rows are taken as they are."""
    if kind == "F32":
        return 0
    if kind in ("F16", "BF16"):
        return (2 if kind == "F16" else 3) * 2 * cols + F32
    return cols + cols // (32 if kind == "int8 32" else 256) * F32


def copy_bytes(tensor: Tensor) -> int:
    """Bytes of a copy on the device: tiled, or row by row where rows are only looked up."""
    if tensor.name.endswith(IN_FILE_ORDER):
        return math.prod(tensor.shape[:-1]) * tensor.format.row_bytes(tensor.shape[-1])
    return repack_bytes(tensor)


def planned_weight_bytes(
    device: Any, tensors: Sequence[Tensor], drafts: Collection[str], options: Any
) -> int:
    """Bytes of matrices that opening a model will copy to a device.

    Parameters
    ----------
    device : Device
        Open, with nothing of the model on it yet.
    tensors : sequence of Tensor
        Every matrix.
    drafts : collection of str
        Names of the draft block's.
    options : EngineOptions

    Raises
    ------
    MemoryBudgetError
        If what must be copied does not fit.
    """
    if not hasattr(device, "driver"):  # a simulated device: everything is copied
        return sum(map(copy_bytes, tensors))
    settings = settings_from(options.residency, options.residency_gib, os.environ)
    spans, _ = spans_of(tensors, drafts, copy_bytes)
    return plan(spans, machine_of(device), settings).copied_bytes
