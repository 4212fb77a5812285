"""Bytes that decoding reads, from the tensor table: what a memory-bound engine cannot avoid.

Counts every active weight once per pass, however many rows the pass evaluates, and of the routed
experts the distinct ones that N rows are expected to pick: E * (1 - (1 - k/E)^N) per layer under
independent uniform routing. Cached KV rows are counted once per pass too, since the rows of a
verify pass share them.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.gguf.tensor import Tensor
from engine.shape import Shape
from engine.weights.bind import LayerWeights, TrunkWeights, iter_tensors

_EXPERTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
_INDEXER_QUERY = ("indexer_attn_q_b", "indexer_proj")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes read per pass, by what they are.

    Parameters
    ----------
    dense : int
        Weights of all layers without routed experts; the indexer's query weights only where
        more compressed rows are visible than it selects.
    head : int
        Output matrix, its norm and the output hyper-connection.
    experts : float
        Expected bytes of distinct routed experts.
    embedding : int
        Embedding rows and expert ids looked up by token.
    kv_raw, kv_selected, kv_indexer, kv_ratio128 : int
        Raw rows of the sliding window; compressed rows that the indexer selected; its own rows;
        compressed rows of ratio 128.
    """

    dense: int
    head: int
    experts: float
    embedding: int
    kv_raw: int
    kv_selected: int
    kv_indexer: int
    kv_ratio128: int

    @property
    def kv(self) -> int:
        return self.kv_raw + self.kv_selected + self.kv_indexer + self.kv_ratio128

    @property
    def weights(self) -> float:
        return self.dense + self.head + self.experts + self.embedding

    @property
    def total(self) -> float:
        return self.weights + self.kv


def distinct_experts(n_expert: int, n_used: int, n_rows: int) -> float:
    """Expected number of experts that n_rows independent uniform choices of n_used touch."""
    return n_expert * (1.0 - (1.0 - n_used / n_expert) ** n_rows)


# Of the CPU engine, by `EngineOptions.kv`: int8 codes with a float32 scale per 32, or float32.
INDEX_VALUE_BYTES = {"official": 1.125, "f32": 4.0}


def decode_traffic(
    shape: Shape,
    weights: TrunkWeights,
    n_ctx: int,
    n_rows: int = 1,
    kv_value_bytes: int = 4,
    idx_value_bytes: float | None = None,
) -> Traffic:
    """Bytes read by one pass that evaluates `n_rows` tokens behind a context.

    Parameters
    ----------
    n_ctx : int
        Tokens in the cache that a row can look back on, its own included.
    n_rows : int
        1 for plain decode; drafted tokens + 1 for a verify pass.
    kv_value_bytes : int
        Bytes of one cached value: 4 for float32 rows, 2 for float16.
    idx_value_bytes : float, optional
        The same for indexer rows where they are stored otherwise; see `INDEX_VALUE_BYTES`.
    """
    visible = n_ctx // 4
    scores = visible > shape.idx_top_k
    dense = 0
    experts = 0.0
    ratio_4 = ratio_128 = 0
    lookup = n_rows * _row_bytes(weights.token_embd)
    distinct = distinct_experts(shape.n_expert, shape.n_expert_used, n_rows)
    for layer, ratio in zip(weights.layers, shape.compress_ratios):
        dense += _dense_bytes(layer, scores)
        for field in _EXPERTS:
            experts += getattr(layer, field).n_bytes / shape.n_expert * distinct
        if layer.ffn_gate_tid2eid is not None:
            lookup += n_rows * _row_bytes(layer.ffn_gate_tid2eid)
        ratio_4 += ratio == 4
        ratio_128 += ratio == 128
    row = shape.head_dim * kv_value_bytes
    index = kv_value_bytes if idx_value_bytes is None else idx_value_bytes
    return Traffic(
        dense=dense,
        head=_head_bytes(weights),
        experts=experts,
        embedding=lookup,
        kv_raw=shape.n_layer * min(shape.n_swa, n_ctx) * row,
        kv_selected=ratio_4 * min(shape.idx_top_k, visible) * row,
        kv_indexer=round(ratio_4 * visible * shape.idx_head_dim * index) if scores else 0,
        kv_ratio128=ratio_128 * (n_ctx // 128) * row,
    )


def _row_bytes(tensor: Tensor) -> int:
    return tensor.n_bytes // tensor.shape[0]


def _head_bytes(weights: TrunkWeights) -> int:
    head = (weights.output, weights.output_norm, weights.output_hc_fn,
            weights.output_hc_scale, weights.output_hc_base)  # fmt: skip
    return sum(tensor.n_bytes for tensor in head)


def _dense_bytes(layer: LayerWeights, scores: bool) -> int:
    skipped = [*_EXPERTS, "ffn_gate_tid2eid"]
    if not scores:
        skipped += _INDEXER_QUERY
    total = sum(tensor.n_bytes for tensor in iter_tensors(layer))
    absent = (getattr(layer, field) for field in skipped)
    return total - sum(tensor.n_bytes for tensor in absent if tensor is not None)
