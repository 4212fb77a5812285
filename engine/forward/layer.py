"""One decoder layer over n rows: hyper-connections around attention and feed-forward.

It knows the order of the steps and what each takes; how a step is computed is the kernel set's
matter, and where its rows are stored is the cache's.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.forward.probe import Probe
from engine.ops.activations import Activations
from engine.ops.base import Backend
from engine.ops.operands import Array, Layer, LayerCache, Position, Rotation, Span
from engine.shape import Shape


@dataclass(frozen=True, slots=True)
class Block:
    """What the rows of a block share: sinks (n * n_head,), and how many rows they see before it.

    `before` may be more than there are.
    """

    sinks: Array
    before: int


# Compressed rows that queries see and how many count; None, None: all of them.
Selection = tuple[Array, Array] | tuple[None, None]


class LayerPass:
    """Runs layers with one kernel set and one way of storing rows.

    Parameters
    ----------
    ops : Backend
    shape : Shape
    official : bool
        Store rows as the published model does (see `EngineOptions.kv`).

    Attributes
    ----------
    probe : Probe or None
        Sees the passes that are run while it is set.
    """

    def __init__(self, ops: Backend, shape: Shape, official: bool) -> None:
        self.ops = ops
        self.shape = shape
        self.official = official
        self.probe: Probe | None = None

    def run(self, index: int, layer: Layer, cache: LayerCache, s: Activations, span: Span) -> None:
        """Advance s.state (n, n_hc, n_embd) by one layer; rows are appended to the cache."""
        self._attention(index, layer, cache, s, span)
        self._feed_forward(index, layer, s)

    def store_rows(
        self, layer: Layer, cache: LayerCache, s: Activations, pos0: Position, rotation: Rotation
    ) -> None:
        """Append the raw rows of s.state to a layer without compressor; compute nothing else."""
        ops, eps = self.ops, self.shape.rms_eps
        assert not layer.ratio
        ops.enter(s, layer.hc_attn, layer.attn_norm, [layer.kv], self.shape)
        ops.matmul(s.kv, s.a, layer.kv)
        ops.kv_store(cache.raw, s.kv, layer.kv_norm, *rotation, pos0, eps, self.official)

    def store_context(
        self,
        layer: Layer,
        cache: LayerCache,
        main: Array,
        s: Activations,
        pos0: Position,
        rotation: Rotation,
    ) -> None:
        """Append raw rows that come straight from main (n, n_embd), past the layer's own way in."""
        ops, eps = self.ops, self.shape.rms_eps
        ops.matmul(s.kv, main, layer.kv)
        ops.kv_store(cache.raw, s.kv, layer.kv_norm, *rotation, pos0, eps, self.official)

    def run_block(
        self, index: int, layer: Layer, cache: LayerCache, s: Activations, span: Span, block: Block
    ) -> None:
        """As `run`, for rows of which each sees the same rows before them, and all of them."""
        ops, shape = self.ops, self.shape
        cos, sin = span.rotation[False]
        self._project(layer, s, span)
        ops.attention_rows(s, layer, cache, span, shape, self.official)
        self._queries(layer, s, span)
        ops.attend_block(s.heads, s.q, cache.raw, block.sinks, span.pos0, block.before)
        ops.rope_tail(s.heads, cos, sin, True)
        ops.matmul_grouped(s.low, s.heads_grouped, layer.out_a)
        ops.matmul(s.y, s.low_flat, layer.out_b)
        ops.hc_expand(s.state, s.y, s.post, s.comb, s.state)
        self._feed_forward(index, layer, s)

    def indexing(self, first: int, n: int) -> bool:
        """Whether scores matter: with every row visible inside the top k they cannot."""
        return (first + n) // 4 > self.shape.idx_top_k

    # Attention

    def _attention(
        self, index: int, layer: Layer, cache: LayerCache, s: Activations, span: Span
    ) -> None:
        ops, probe = self.ops, self.probe
        self._project(layer, s, span)
        ops.attention_rows(s, layer, cache, span, self.shape, self.official)
        if probe:
            probe.projected(index, s)
        self._queries(layer, s, span)
        seen = self._select(layer, cache, s, span)
        self._attend(index, layer, cache, s, span, seen)
        ops.matmul_grouped(s.low, s.heads_grouped, layer.out_a)
        ops.matmul(s.y, s.low_flat, layer.out_b)
        ops.hc_expand(s.state, s.y, s.post, s.comb, s.state)
        if probe:
            probe.attention_done(index, s)

    def _project(self, layer: Layer, s: Activations, span: Span) -> None:
        """The sublayer's input, and everything that is projected from it."""
        outs, weights = [s.q_a, s.kv], [layer.q_a, layer.kv]
        if layer.compressor is not None:
            outs += s.compressor_rows(layer.ratio)
            weights += [layer.compressor.kv, layer.compressor.gate]
        if layer.indexer is not None:
            outs += [s.idx_kv, s.idx_gate]
            weights += [layer.indexer.compressor.kv, layer.indexer.compressor.gate]
            if span.indexing:
                outs.append(s.idx_w)
                weights.append(layer.indexer.proj)
        self.ops.enter(s, layer.hc_attn, layer.attn_norm, weights, self.shape)
        self.ops.matmul_multi(outs, s.a, weights)

    def _queries(self, layer: Layer, s: Activations, span: Span) -> None:
        """Queries from their low rank, rotated; and the indexer's, where scores decide."""
        ops = self.ops
        cos, sin = span.rotation[layer.ratio > 0]
        if layer.indexer is not None and span.indexing:
            ops.matmul_multi([s.q_flat, s.idx_q_flat], s.q_a, [layer.q_b, layer.indexer.q_b])
        else:
            ops.matmul(s.q_flat, s.q_a, layer.q_b)
        ops.q_norm_rope(s.q, cos, sin, self.shape.rms_eps)

    def _select(self, layer: Layer, cache: LayerCache, s: Activations, span: Span) -> Selection:
        """Which compressed rows each query sees."""
        if cache.indexed is None:
            return None, None
        q: Array | None = None
        head_w: Array | None = None
        if span.indexing:
            q, head_w = s.idx_q, s.idx_w
            self.ops.indexer_query(q, *span.rotation[True], self.official)
        margin = s.sel_margin if self.probe else None
        rows = cache.indexed.rows
        self.ops.indexer_select(s.sel, s.n_sel, q, head_w, rows, span.pos0, layer.ratio, margin)
        return s.sel, s.n_sel

    def _attend(
        self,
        index: int,
        layer: Layer,
        cache: LayerCache,
        s: Activations,
        span: Span,
        seen: Selection,
    ) -> None:
        """s.q over the rows that it sees, into s.heads, rotated back."""
        ops, n_swa, ratio = self.ops, self.shape.n_swa, layer.ratio
        cos, sin = span.rotation[ratio > 0]
        rows = cache.compressed.rows if cache.compressed is not None else None
        sel, n_sel = seen
        arrays = s.heads, s.q, cache.raw, rows, sel, n_sel, layer.sinks
        if self.probe is None:
            ops.attend_turned(*arrays, span.pos0, n_swa, ratio, cos, sin)
            return
        ops.attend(*arrays, span.pos0, n_swa, ratio)
        self.probe.attended(index, ops, layer, cache, s, span)
        ops.rope_tail(s.heads, cos, sin, True)

    # Feed-forward

    def _feed_forward(self, index: int, layer: Layer, s: Activations) -> None:
        ops, shape, probe = self.ops, self.shape, self.probe
        following = [layer.router, layer.gate_exps, layer.up_exps]
        if shape.n_expert_shared:
            following += [layer.gate_shexp, layer.up_shexp]
        ops.enter(s, layer.hc_ffn, layer.ffn_norm, following, shape)
        ops.matmul(s.logits_r, s.a, layer.router)
        self._route(layer, s)
        if probe:
            probe.routed(index, ops, layer, s, shape.expert_weights_scale)
        ops.feed_forward(s, layer, shape)
        ops.hc_expand(s.state, s.y, s.post, s.comb, s.state)
        if probe:
            probe.feed_forward_done(index, s)

    def _route(self, layer: Layer, s: Activations) -> None:
        """Experts of each row and their weights: by token id in the first layers, else by score."""
        ops, scale = self.ops, self.shape.expert_weights_scale
        if layer.tid2eid is not None:
            ops.router_hash(s.ids, s.weights, s.logits_r, layer.tid2eid, s.tokens, scale)
        else:
            margin = s.margin if self.probe else None
            ops.router_select(s.ids, s.weights, s.logits_r, layer.router_bias, scale, margin)
