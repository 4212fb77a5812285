"""The forward pass of the trunk: embed, layers, head; for one token, a few rows or a chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.cache.kv import KVCache
from engine.forward.layer import Angles, LayerPass
from engine.forward.model import Head, Model
from engine.forward.rope import RopeTable
from engine.forward.scratch import Scratch
from engine.shape import Shape


class Trunk:
    """Evaluates tokens with one model and one kernel set; owns the activations, no history.

    Parameters
    ----------
    ops : module
        Kernel set.
    model : Model
    official : bool
        See `EngineOptions.kv`.
    rows : int
        Most tokens per call.
    ctx : int
        Positions that will be asked for: 0 .. ctx + rows - 1.
    """

    def __init__(self, ops: Any, model: Model, official: bool, rows: int, ctx: int) -> None:
        self.ops = ops
        self.model = model
        self.shape: Shape = model.shape
        self.scratch = Scratch(ops, model.shape, rows)
        self.layers = LayerPass(ops, model.shape, official)
        self.rope = {
            kind: ops.rope_table(RopeTable(model.shape, compressed=kind), ctx + rows)
            for kind in (False, True)
        }
        self._ratios = sorted({r for r in model.shape.compress_ratios if r})

    def angles(self, pos0: int, n: int) -> Angles:
        """Rotary angles of the rows pos0 .. pos0+n-1 and of the windows that end in them."""
        rows = {kind: table.at(pos0, n) for kind, table in self.rope.items()}
        windows = {}
        for ratio in self._ratios:
            _, n_emit = self.ops.windows(pos0, n, ratio)
            if n_emit:
                windows[ratio] = self.rope[True].at(pos0 // ratio * ratio, n_emit, ratio)
        return Angles(rows, windows)

    def evaluate(
        self, cache: KVCache, tokens: np.ndarray, pos0: int, history: Any = None
    ) -> np.ndarray:
        """Run tokens at positions pos0.. through all layers; rows are appended to the cache.

        Parameters
        ----------
        cache : KVCache
        tokens : int32 array of shape (n,)
            Ids already checked against the vocabulary; n at most the rows of this object.
        pos0 : int
        history : float32 array of shape (rows, n_hc, n_embd), optional
            Ring by position that the last final states are written to.

        Returns
        -------
        float32 array of shape (n, n_hc, n_embd)
            Final state of every row; a view that the next call overwrites.
        """
        n = len(tokens)
        s = self.scratch.view(n)
        s.tokens[:] = tokens

        def body() -> None:
            self.ops.embed_hc(s.state, s.tokens, self.model.embed)
            angles = self.angles(pos0, n)
            for index, layer in enumerate(self.model.layers):
                self.layers.run(index, layer, cache.layers[index], s, n, pos0, angles)
            if history is not None:
                self.ops.ring_put(history, s.state, pos0, max(n - len(history), 0))

        self.run_pass("trunk", n, pos0, body)
        return s.state

    def run_pass(
        self, name: str, n: int, pos0: int, body: Callable[[], None], owner: object = None
    ) -> None:
        """Run a pass of this object's layers, which a kernel set may record and replay.

        What a pass does must follow from `name`, n, and whether the indexer takes part, and it
        must work on the same arrays of its owner (this object by default) each time; only the
        position may differ.
        """
        key = (name, n, self.layers.indexing(pos0, n))
        watched = self.layers.tap is not None or self.layers.force_ids is not None
        self.ops.run(owner or self, None if watched else key, pos0, body)

    def logits(
        self,
        state: np.ndarray,
        out: np.ndarray | None = None,
        head: Head | None = None,
        name: str | None = None,
        owner: object = None,
    ) -> np.ndarray:
        """Logits of the given rows.

        Parameters
        ----------
        state : float32 array of shape (n, n_hc, n_embd)
        out : float32 array of shape (n, n_vocab), optional
            Overwritten; without it a fresh array is made.
        head : Head, optional
            Another block's head (MTP); the trunk's by default.
        name : str, optional
            Names calls that take the same arrays each time, so that they may be recorded.
        owner : object, optional
            Whose arrays they are; this object's by default.

        Returns
        -------
        float32 array of shape (n, n_vocab)
        """
        ops, shape = self.ops, self.shape
        head = self.model.head if head is None else head
        n = len(state)
        if out is None:
            out = ops.new_array((n, shape.n_vocab))
        s = self.scratch.view(n)
        flat = state.reshape(n, -1)

        def body() -> None:
            if "hc_head" in ops.FUSED:
                ops.hc_head(s, state, head, self.model.output, shape)
                ops.matmul(out, s.x, self.model.output)
                return
            ops.rms_norm(s.flat, flat, None, shape.rms_eps)
            ops.matmul(s.head_mix, s.flat, head.fn)
            ops.hc_collapse(
                s.x, s.head_mix, flat.reshape(state.shape), head.scale, head.base, shape.hc_eps
            )
            ops.rms_norm(s.x, s.x, head.norm, shape.rms_eps)
            ops.matmul(out, s.x, self.model.output)

        ops.run(owner or self, None if name is None else (name, n), 0, body)
        if self.layers.tap:
            self.layers.tap("logits", shape.n_layer, out)
        return out
