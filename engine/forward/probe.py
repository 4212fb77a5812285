"""Looking into a pass, and changing its expert ids: for diagnosis, never for decoding.

A probed pass calls the ops one by one instead of the combined ones whose middle cannot be seen,
and is not recorded; its bits are the same. What is kept by every pass for later use, layer outputs
by position, is no probe's matter (see `Trunk.keep_outputs`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.ops.activations import Activations
from engine.ops.base import Backend
from engine.ops.operands import Array, Layer, LayerCache, Span

# Called as tap(name, layer, array); the array may be overwritten afterwards.
Tap = Callable[[str, int, Array], None]


class Probe:
    """Shows a pass's intermediate results in the order in which they are computed.

    Parameters
    ----------
    tap : callable
        Gets each array with its name and layer; logits come with the number of layers.
    replace_ids : callable, optional
        ``replace_ids(layer, ids)`` overwrites this pass's expert ids, int32 (n, n_expert_used) on
        the host, before their weights are computed; top-k routers only.
    """

    def __init__(
        self, tap: Tap, replace_ids: Callable[[int, np.ndarray], None] | None = None
    ) -> None:
        self.tap = tap
        self.replace_ids = replace_ids

    def projected(self, index: int, s: Activations) -> None:
        self.tap("attn_norm", index, s.a)
        self.tap("q_lora", index, s.q_a)

    def attended(
        self, index: int, ops: Backend, layer: Layer, cache: LayerCache, s: Activations, span: Span
    ) -> None:
        """After `attend`, before its output is rotated back."""
        tap = self.tap
        if layer.indexer is not None and span.indexing:
            tap("indexer_query", index, s.idx_q)
        tap("q", index, s.q)
        tap("kv", index, ops.ring_get(cache.raw, span.first, span.n))
        if cache.compressed is not None:
            first, last = span.first // layer.ratio, (span.first + span.n) // layer.ratio
            tap("compressed", index, cache.compressed.rows[first:last])
            if cache.indexed is not None:
                tap("indexer_rows", index, cache.indexed.rows.export(last)[first:])
                sel, n_sel = np.asarray(s.sel), np.asarray(s.n_sel)
                chosen = np.arange(sel.shape[1]) < n_sel[:, None]
                tap("indexer_set", index, np.where(chosen, sel, -1))
                tap("indexer_margin", index, s.sel_margin)
        tap("heads", index, s.heads)

    def attention_done(self, index: int, s: Activations) -> None:
        self.tap("attn_out", index, s.y)
        self.tap("attn_state", index, s.state)

    def routed(
        self, index: int, ops: Backend, layer: Layer, s: Activations, expert_weights_scale: float
    ) -> None:
        """After the router, before the experts: the place to replace ids."""
        tap = self.tap
        if layer.tid2eid is None and self.replace_ids is not None:
            ids = np.array(s.ids)
            self.replace_ids(index, ids)
            # A table whose row i holds the new ids of row i gives the hash router's weights.
            table, rows = ops.vector(ids), ops.vector(np.arange(len(ids), dtype=np.int32))
            ops.router_hash(s.ids, s.weights, s.logits_r, table, rows, expert_weights_scale)
        tap("ffn_norm", index, s.a)
        tap("router_logits", index, s.logits_r)
        tap("expert_ids", index, s.ids)
        tap("expert_weights", index, s.weights)
        if layer.tid2eid is None:
            tap("expert_margin", index, s.margin)

    def feed_forward_done(self, index: int, s: Activations) -> None:
        self.tap("ffn_out", index, s.y)
        self.tap("ffn_state", index, s.state)
