"""The combined ops of `Backend` in terms of its plain ones, for every kernel set to stand on.

Each method here is the definition of what its op computes. A set that has one kernel for several
steps overrides the method; its bits are the same, and it may fall back to the definition where its
kernel does not fit. This module knows no kernels and no arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.ops.activations import Activations
from engine.ops.base import Backend
from engine.ops.device import PassTimes
from engine.ops.operands import (
    Array,
    Head,
    HyperConnection,
    Layer,
    LayerCache,
    PassKey,
    Position,
    Span,
    Weight,
)
from engine.shape import Shape


class ComposedOps(Backend):
    """What sets have in common; subclasses define the plain ops."""

    def rms_norm_for(
        self, out: Array, x: Array, weight: Array, eps: float, following: Sequence[Weight]
    ) -> None:
        """`rms_norm`, where it is known which weights `out` will be multiplied with next.

        A set that quantises rows before it multiplies them can do both in one go.
        """
        self.rms_norm(out, x, weight, eps)

    def enter(
        self,
        s: Activations,
        hc: HyperConnection,
        norm: Array,
        following: Sequence[Weight],
        shape: Shape,
    ) -> None:
        self.rms_norm(s.flat, s.state_flat, None, shape.rms_eps)
        self.matmul(s.mix, s.flat, hc.fn)
        self.hc_split(
            s.x, s.post, s.comb, s.mix, s.state, hc.scale, hc.base, shape.n_sinkhorn, shape.hc_eps
        )
        self.rms_norm_for(s.a, s.x, norm, shape.rms_eps, following)

    def head(self, s: Activations, state: Array, head: Head, output: Weight, shape: Shape) -> None:
        self.rms_norm(s.flat, state.reshape(len(state), -1), None, shape.rms_eps)
        self.matmul(s.head_mix, s.flat, head.fn)
        self.hc_collapse(s.x, s.head_mix, state, head.scale, head.base, shape.hc_eps)
        self.rms_norm_for(s.x, s.x, head.norm, shape.rms_eps, [output])

    def attention_rows(
        self,
        s: Activations,
        layer: Layer,
        cache: LayerCache,
        span: Span,
        shape: Shape,
        official: bool,
    ) -> None:
        eps, pos0, ratio = shape.rms_eps, span.pos0, layer.ratio
        cos, sin = span.rotation[ratio > 0]
        self.rms_norm(s.q_a, s.q_a, layer.q_a_norm, eps)
        self.kv_store(cache.raw, s.kv, layer.kv_norm, cos, sin, pos0, eps, official)
        if layer.compressor is None or cache.compressed is None:
            return
        windows = span.windows[ratio]
        comp, rings = layer.compressor, cache.compressed.rings
        kv, gate = s.compressor_rows(ratio)
        pooled = s.pooled[: windows.rows]
        self.compressor_pool(pooled, rings.kv, rings.score, kv, gate, comp.ape, pos0, ratio)
        if windows.rows:
            rows = cache.compressed.rows
            self.compressor_store(rows, pooled, comp.norm, windows, pos0, eps, official)
        if layer.indexer is None or cache.indexed is None:
            return
        comp, rings = layer.indexer.compressor, cache.indexed.rings
        pooled = s.idx_pooled[: windows.rows]
        self.compressor_pool(
            pooled, rings.kv, rings.score, s.idx_kv, s.idx_gate, comp.ape, pos0, ratio
        )
        if windows.rows:
            self.indexer_store(cache.indexed.rows, pooled, comp.norm, windows, pos0, eps, official)

    def attend_turned(
        self,
        out: Array,
        q: Array,
        ring: Array,
        rows: Array | None,
        sel: Array | None,
        n_sel: Array | None,
        sinks: Array,
        pos0: Position,
        n_swa: int,
        ratio: int,
        cos: Array,
        sin: Array,
    ) -> None:
        self.attend(out, q, ring, rows, sel, n_sel, sinks, pos0, n_swa, ratio)
        self.rope_tail(out, cos, sin, True)

    def feed_forward(self, s: Activations, layer: Layer, shape: Shape) -> None:
        self.routed_moe(
            s.y, s.a, s.ids, s.weights, layer.gate_exps, layer.up_exps, layer.down_exps, layer.limit
        )
        if shape.n_expert_shared:
            gate, up, down = layer.gate_shexp, layer.up_shexp, layer.down_shexp
            self.shared_ffn(s.shared, s.a, gate, up, down, layer.limit_shared)
            self.add(s.y, s.shared)

    def time_passes(self, owner: object) -> dict[PassKey, PassTimes]:
        return {}
