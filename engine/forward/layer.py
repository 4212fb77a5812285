"""One decoder layer over n rows: hyper-connections around attention and feed-forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from engine.cache.kv import LayerCache
from engine.forward.model import HyperConnection, Layer, Weight
from engine.shape import Shape

Tap = Callable[[str, int, np.ndarray], None]


@dataclass(slots=True)
class Angles:
    """Cosines and sines of one pass, per kind of layer: rows, and windows that it completes."""

    rows: dict[bool, tuple[np.ndarray, np.ndarray]]
    windows: dict[int, tuple[np.ndarray, np.ndarray]]


class LayerPass:
    """Runs layers with one kernel set and one way of storing rows.

    Parameters
    ----------
    ops : module
        Kernel set.
    shape : Shape
    official : bool
        Store rows as the published model does (see `EngineOptions.kv`).
    """

    def __init__(self, ops: Any, shape: Shape, official: bool) -> None:
        self.ops = ops
        self.shape = shape
        self.official = official
        self.tap: Tap | None = None
        # Drift's causal test replaces this pass's expert ids by another run's.
        self.force_ids: Callable[[int, np.ndarray], None] | None = None

    def run(
        self,
        index: int,
        layer: Layer,
        cache: LayerCache,
        s: SimpleNamespace,
        n: int,
        pos0: int,
        angles: Angles,
    ) -> None:
        """Advance s.state (n, n_hc, n_embd) by one layer; rows are appended to the cache."""
        self._attention(index, layer, cache, s, n, pos0, angles)
        self._feed_forward(index, layer, s)

    def indexing(self, pos0: int, n: int) -> bool:
        """Whether scores matter: with every row visible inside the top k they cannot."""
        return (pos0 + n) // 4 > self.shape.idx_top_k

    def store_rows(
        self,
        layer: Layer,
        cache: LayerCache,
        s: SimpleNamespace,
        pos0: int,
        angles: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """Append the raw rows of s.state to a layer without compressor; compute nothing else."""
        ops, eps = self.ops, self.shape.rms_eps
        assert not layer.ratio
        self._enter(layer.hc_attn, layer.attn_norm, s, [layer.kv])
        ops.matmul(s.kv, s.a, layer.kv)
        ops.kv_store(cache.raw, s.kv, layer.kv_norm, *angles, pos0, eps, self.official)

    def _enter(
        self,
        hc: HyperConnection,
        norm: np.ndarray,
        s: SimpleNamespace,
        following: Sequence[Weight],
    ) -> None:
        """Mix the streams into one row and norm it (s.a), which `following` will be multiplied
        with; remember how to spread the result (post, comb)."""
        ops, shape = self.ops, self.shape
        if "hc_enter" in ops.FUSED:
            ops.hc_enter(s, hc, norm, shape, following)
            return
        ops.rms_norm(s.flat, s.state_flat, None, shape.rms_eps)
        ops.matmul(s.mix, s.flat, hc.fn)
        ops.hc_split(
            s.x, s.post, s.comb, s.mix, s.state, hc.scale, hc.base, shape.n_sinkhorn, shape.hc_eps
        )
        ops.rms_norm(s.a, s.x, norm, shape.rms_eps)

    def _attention(
        self,
        index: int,
        layer: Layer,
        cache: LayerCache,
        s: SimpleNamespace,
        n: int,
        pos0: int,
        angles: Angles,
    ) -> None:
        ops, shape, tap = self.ops, self.shape, self.tap
        eps = shape.rms_eps
        ratio = layer.ratio
        cos, sin = angles.rows[ratio > 0]
        outs, weights = [s.q_a, s.kv], [layer.q_a, layer.kv]
        indexing = False
        if ratio:
            comp = layer.compressor
            assert comp is not None
            comp_kv, comp_gate = self._comp_rows(ratio, s)
            outs += [comp_kv, comp_gate]
            weights += [comp.kv, comp.gate]
            if ratio == 4:
                idx = layer.indexer
                assert idx is not None
                outs += [s.idx_kv, s.idx_gate]
                weights += [idx.compressor.kv, idx.compressor.gate]
                indexing = self.indexing(pos0, n)
                if indexing:
                    outs.append(s.idx_w)
                    weights.append(idx.proj)
        self._enter(layer.hc_attn, layer.attn_norm, s, weights)
        ops.matmul_multi(outs, s.a, weights)

        stored = "attention_rows" in ops.FUSED and ops.attention_rows(
            s, layer, cache, pos0, n, (cos, sin), angles.windows, shape, self.official
        )
        if not stored:
            ops.rms_norm(s.q_a, s.q_a, layer.q_a_norm, eps)
        if tap:
            tap("attn_norm", index, s.a)
            tap("q_lora", index, s.q_a)
        if indexing:
            assert layer.indexer is not None
            ops.matmul_multi([s.q_flat, s.idx_q_flat], s.q_a, [layer.q_b, layer.indexer.q_b])
        else:
            ops.matmul(s.q_flat, s.q_a, layer.q_b)
        ops.q_norm_rope(s.q, cos, sin, eps)
        if not stored:
            ops.kv_store(cache.raw, s.kv, layer.kv_norm, cos, sin, pos0, eps, self.official)

        sel: Any = None
        n_sel: Any = None
        if ratio:
            if not stored:
                self._compress(layer, cache, s, n, pos0, angles)
            if ratio == 4:
                sel, n_sel = s.sel, s.n_sel
                if indexing:
                    ops.indexer_query(s.idx_q, cos, sin, self.official)
                ops.indexer_select(
                    sel,
                    n_sel,
                    s.idx_q if indexing else None,
                    s.idx_w if indexing else None,
                    cache.index,
                    pos0,
                    ratio,
                    s.sel_margin if tap else None,
                )
        seen = (cache.raw, cache.comp, sel, n_sel, layer.sinks, pos0, shape.n_swa, ratio)
        turned = "attend_turned" in ops.FUSED and not tap
        if turned:
            ops.attend_turned(s.heads, s.q, *seen, cos, sin)
        else:
            ops.attend(s.heads, s.q, *seen)
        if tap:
            if indexing:
                tap("indexer_query", index, s.idx_q)
            tap("q", index, s.q)
            tap("kv", index, cache.raw[np.arange(pos0, pos0 + n) % len(cache.raw)])
            if ratio:
                first, last = pos0 // ratio, (pos0 + n) // ratio
                tap("compressed", index, cache.comp[first:last])
            if ratio == 4:
                tap("indexer_rows", index, cache.index.export(last)[first:])
                tap(
                    "indexer_set",
                    index,
                    np.where(np.arange(sel.shape[1]) < n_sel[:, None], sel, -1),
                )
                tap("indexer_margin", index, s.sel_margin)
            tap("heads", index, s.heads)
        if not turned:
            ops.rope_tail(s.heads, cos, sin, True)
        ops.matmul_grouped(s.low, s.heads_grouped, layer.out_a)
        ops.matmul(s.y, s.low_flat, layer.out_b)
        ops.hc_expand(s.state, s.y, s.post, s.comb, s.state)
        if tap:
            tap("attn_out", index, s.y)
            tap("attn_state", index, s.state)

    def _comp_rows(self, ratio: int, s: SimpleNamespace) -> tuple[np.ndarray, np.ndarray]:
        if ratio == 4:
            return s.comp_kv, s.comp_gate
        return s.comp_kv_128, s.comp_gate_128

    def _compress(
        self,
        layer: Layer,
        cache: LayerCache,
        s: SimpleNamespace,
        n: int,
        pos0: int,
        angles: Angles,
    ) -> None:
        """Pool the windows that these rows complete and append them to the compressed rows."""
        ops, eps, ratio = self.ops, self.shape.rms_eps, layer.ratio
        first, n_emit = ops.windows(pos0, n, ratio)
        comp = layer.compressor
        assert comp is not None
        comp_kv, comp_gate = self._comp_rows(ratio, s)
        pooled = s.pooled[:n_emit]
        ops.compressor_pool(
            pooled, cache.ring_kv, cache.ring_score, comp_kv, comp_gate, comp.ape, pos0, ratio
        )
        if ratio == 4:
            assert layer.indexer is not None
            idx = layer.indexer.compressor
            idx_pooled = s.idx_pooled[:n_emit]
            ops.compressor_pool(
                idx_pooled,
                cache.idx_ring_kv,
                cache.idx_ring_score,
                s.idx_kv,
                s.idx_gate,
                idx.ape,
                pos0,
                ratio,
            )
        if n_emit:
            cos, sin = angles.windows[ratio]
            ops.compressor_store(cache.comp, first, pooled, comp.norm, cos, sin, eps, self.official)
            if ratio == 4:
                ops.indexer_store(
                    cache.index, first, idx_pooled, idx.norm, cos, sin, eps, self.official
                )

    def _feed_forward(self, index: int, layer: Layer, s: SimpleNamespace) -> None:
        ops, shape, tap = self.ops, self.shape, self.tap
        following = [layer.router, layer.gate_exps, layer.up_exps]
        if shape.n_expert_shared:
            following += [layer.gate_shexp, layer.up_shexp]
        self._enter(layer.hc_ffn, layer.ffn_norm, s, following)
        ops.matmul(s.logits_r, s.a, layer.router)
        scale = shape.expert_weights_scale
        if layer.tid2eid is not None:
            ops.router_hash(s.ids, s.weights, s.logits_r, layer.tid2eid, s.tokens, scale)
        else:
            ops.router_select(
                s.ids, s.weights, s.logits_r, layer.router_bias, scale, s.margin if tap else None
            )
            if self.force_ids is not None:
                self._forced(index, layer, s)
        if tap:
            tap("ffn_norm", index, s.a)
            tap("router_logits", index, s.logits_r)
            tap("expert_ids", index, s.ids)
            tap("expert_weights", index, s.weights)
            if layer.tid2eid is None:
                tap("expert_margin", index, s.margin)
        if "feed_forward" in ops.FUSED:
            ops.feed_forward(s, layer, bool(shape.n_expert_shared))
        else:
            self._experts(layer, s)
        ops.hc_expand(s.state, s.y, s.post, s.comb, s.state)
        if tap:
            tap("ffn_out", index, s.y)
            tap("ffn_state", index, s.state)

    def _experts(self, layer: Layer, s: SimpleNamespace) -> None:
        """Routed experts and the shared one, into s.y."""
        ops = self.ops
        ops.routed_moe(
            s.y, s.a, s.ids, s.weights, layer.gate_exps, layer.up_exps, layer.down_exps, layer.limit
        )
        if self.shape.n_expert_shared:
            ops.shared_ffn(
                s.shared,
                s.a,
                layer.gate_shexp,
                layer.up_shexp,
                layer.down_shexp,
                layer.limit_shared,
            )
            ops.add(s.y, s.shared)

    def _forced(self, index: int, layer: Layer, s: SimpleNamespace) -> None:
        """Take expert ids from elsewhere, and this pass's own weights for them."""
        assert self.force_ids is not None
        ids = np.array(s.ids)
        self.force_ids(index, ids)
        # A table whose row i holds the forced ids of row i gives the hash router's weights.
        rows = np.arange(len(ids), dtype=np.int32)
        self.ops.router_hash(
            s.ids,
            s.weights,
            s.logits_r,
            self.ops.vector(ids),
            self.ops.vector(rows),
            self.shape.expert_weights_scale,
        )
