"""Weights in the form a kernel set wants them: matrices prepared, vectors as float32 arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.errors import LayoutError
from engine.ops.operands import (
    Array,
    Compressor,
    Head,
    HyperConnection,
    Indexer,
    Layer,
    Weight,
)
from engine.quant.registry import dequantize
from engine.shape import Shape
from engine.weights.bind import LayerWeights, MtpWeights, TrunkWeights
from engine.weights.tensor import Tensor


@dataclass(slots=True)
class Model:
    """The trunk, ready to run."""

    shape: Shape
    embed: Weight
    output: Weight
    head: Head
    layers: tuple[Layer, ...]


@dataclass(slots=True)
class MtpModel:
    """The multi-token-prediction block; embedding and output matrix are the trunk's."""

    e_proj: Weight
    h_proj: Weight
    enorm: Array
    hnorm: Array
    head: Head
    layer: Layer


def vector(tensor: Tensor) -> np.ndarray:
    """A small tensor as a contiguous float32 array of its own shape."""
    values = dequantize(tensor.data, tensor.format, tensor.shape)
    return np.ascontiguousarray(values, dtype=np.float32)


def _table(tensor: Tensor, n_expert: int) -> np.ndarray:
    """Expert ids by token, int32 (n_vocab, used); refused when an id names no expert."""
    ids = tensor.data.view("<i4").reshape(tensor.shape)
    if ids.size and (ids.min() < 0 or ids.max() >= n_expert):
        raise LayoutError(
            f"{tensor.name}: expected expert ids 0 to {n_expert - 1}, "
            f"found {int(ids.min())} to {int(ids.max())}"
        )
    return ids


def _bound(tensor: Tensor | None) -> Tensor:
    """A tensor that the layout check has seen."""
    assert tensor is not None
    return tensor


class Preparer:
    """Turns bound tensors into a kernel set's weights, one call per tensor.

    Parameters
    ----------
    prepare : callable
        ``prepare(tensor) -> Weight`` of the kernel set, options already applied.
    vector : callable
        The kernel set's ``vector(values) -> array``, for small tensors.
    """

    def __init__(
        self, prepare: Callable[[Tensor], Weight], vector: Callable[[np.ndarray], Array]
    ) -> None:
        self._prepare = prepare
        self._place = vector

    def _vector(self, tensor: Tensor) -> Array:
        return self._place(vector(tensor))

    def trunk(self, shape: Shape, bound: TrunkWeights) -> Model:
        p, vector = self._prepare, self._vector
        head = Head(
            p(bound.output_hc_fn),
            vector(bound.output_hc_scale),
            vector(bound.output_hc_base),
            vector(bound.output_norm),
        )
        layers = tuple(
            self.layer(
                shape,
                layer,
                shape.compress_ratio(i),
                shape.swiglu_limit[i],
                shape.swiglu_limit_shared[i],
            )
            for i, layer in enumerate(bound.layers)
        )
        return Model(shape, p(bound.token_embd), p(bound.output), head, layers)

    def mtp(self, shape: Shape, bound: MtpWeights) -> MtpModel:
        p, vector = self._prepare, self._vector
        return MtpModel(
            p(bound.e_proj),
            p(bound.h_proj),
            vector(bound.enorm),
            vector(bound.hnorm),
            Head(
                p(bound.hc_head_fn),
                vector(bound.hc_head_scale),
                vector(bound.hc_head_base),
                vector(bound.norm),
            ),
            self.layer(shape, bound.layer, 0, bound.swiglu_limit, bound.swiglu_limit_shared),
        )

    def layer(
        self, shape: Shape, t: LayerWeights, ratio: int, limit: float, limit_shared: float
    ) -> Layer:
        p, vector = self._prepare, self._vector
        compressor = indexer = None
        if ratio:
            compressor = Compressor(
                p(_bound(t.attn_compressor_kv)),
                p(_bound(t.attn_compressor_gate)),
                vector(_bound(t.attn_compressor_ape)),
                vector(_bound(t.attn_compressor_norm)),
            )
        if ratio == 4:
            indexer = Indexer(
                p(_bound(t.indexer_attn_q_b)),
                p(_bound(t.indexer_proj)),
                Compressor(
                    p(_bound(t.indexer_compressor_kv)),
                    p(_bound(t.indexer_compressor_gate)),
                    vector(_bound(t.indexer_compressor_ape)),
                    vector(_bound(t.indexer_compressor_norm)),
                ),
            )
        hashed = t.ffn_gate_tid2eid is not None
        bias = None
        if not hashed:
            bias = (
                vector(t.exp_probs_b)
                if t.exp_probs_b is not None
                else self._place(np.zeros(shape.n_expert, np.float32))
            )
        return Layer(
            ratio=ratio,
            limit=float(limit),
            limit_shared=float(limit_shared),
            hc_attn=HyperConnection(
                p(t.hc_attn_fn), vector(t.hc_attn_scale), vector(t.hc_attn_base)
            ),
            hc_ffn=HyperConnection(p(t.hc_ffn_fn), vector(t.hc_ffn_scale), vector(t.hc_ffn_base)),
            attn_norm=vector(t.attn_norm),
            q_a=p(t.attn_q_a),
            q_a_norm=vector(t.attn_q_a_norm),
            q_b=p(t.attn_q_b),
            kv=p(t.attn_kv),
            kv_norm=vector(t.attn_kv_a_norm),
            sinks=vector(t.attn_sinks),
            out_a=p(t.attn_output_a),
            out_b=p(t.attn_output_b),
            compressor=compressor,
            indexer=indexer,
            ffn_norm=vector(t.ffn_norm),
            router=p(t.ffn_gate_inp),
            router_bias=bias,
            tid2eid=(
                self._place(_table(_bound(t.ffn_gate_tid2eid), shape.n_expert)) if hashed else None
            ),
            gate_exps=p(t.ffn_gate_exps),
            up_exps=p(t.ffn_up_exps),
            down_exps=p(t.ffn_down_exps),
            gate_shexp=p(t.ffn_gate_shexp),
            up_shexp=p(t.ffn_up_shexp),
            down_shexp=p(t.ffn_down_shexp),
        )


# Small vectors that become float32 arrays; every other tensor is prepared by the kernel set.
VECTOR_SUFFIXES = (
    "_norm.weight",
    "_scale.weight",
    "_base.weight",
    "_ape.weight",
    "attn_sinks.weight",
    "exp_probs_b.bias",
    "ffn_gate_tid2eid.weight",
    "enorm.weight",
    "hnorm.weight",
    "norm.weight",
    "confidence_head.proj.weight",
    "conf_proj.weight",
)
