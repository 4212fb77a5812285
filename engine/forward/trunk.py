"""The forward pass of the trunk: embed, layers, head; for one token, a few rows or a chunk."""

from __future__ import annotations

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
    """

    def __init__(self, ops: Any, model: Model, official: bool, rows: int) -> None:
        self.ops = ops
        self.model = model
        self.shape: Shape = model.shape
        self.scratch = Scratch(model.shape, rows)
        self.layers = LayerPass(ops, model.shape, official)
        self.rope = {
            False: RopeTable(model.shape, compressed=False),
            True: RopeTable(model.shape, compressed=True),
        }
        self._ratios = sorted({r for r in model.shape.compress_ratios if r})

    def angles(self, pos0: int, n: int) -> Angles:
        """Rotary angles of the rows pos0 .. pos0+n-1 and of the windows that end in them."""
        rows = {kind: table.at(pos0, n) for kind, table in self.rope.items()}
        windows = {}
        for ratio in self._ratios:
            first = pos0 // ratio
            n_emit = (pos0 + n) // ratio - first
            if n_emit:
                windows[ratio] = self.rope[True].at(first * ratio, n_emit, ratio)
        return Angles(rows, windows)

    def evaluate(self, cache: KVCache, tokens: np.ndarray, pos0: int) -> np.ndarray:
        """Run tokens at positions pos0.. through all layers; rows are appended to the cache.

        Parameters
        ----------
        cache : KVCache
        tokens : int32 array of shape (n,)
            Ids already checked against the vocabulary; n at most the rows of this object.
        pos0 : int

        Returns
        -------
        float32 array of shape (n, n_hc, n_embd)
            Final state of every row; a view that the next call overwrites.
        """
        n = len(tokens)
        s = self.scratch.view(n)
        s.tokens[:] = tokens
        self.ops.embed_hc(s.state, s.tokens, self.model.embed)
        angles = self.angles(pos0, n)
        run = self.layers.run
        for index, layer in enumerate(self.model.layers):
            run(index, layer, cache.layers[index], s, n, pos0, angles)
        return s.state

    def logits(
        self,
        state: np.ndarray,
        out: np.ndarray | None = None,
        head: Head | None = None,
    ) -> np.ndarray:
        """Logits of the given rows.

        Parameters
        ----------
        state : float32 array of shape (n, n_hc, n_embd)
        out : float32 array of shape (n, n_vocab), optional
            Overwritten; without it a fresh array is made.
        head : Head, optional
            Another block's head (MTP); the trunk's by default.

        Returns
        -------
        float32 array of shape (n, n_vocab)
        """
        ops, shape = self.ops, self.shape
        head = self.model.head if head is None else head
        n = len(state)
        if out is None:
            out = np.empty((n, shape.n_vocab), np.float32)
        s = self.scratch.view(n)
        flat = np.ascontiguousarray(state).reshape(n, -1)
        ops.rms_norm(s.flat, flat, None, shape.rms_eps)
        ops.matmul(s.head_mix, s.flat, head.fn)
        ops.hc_collapse(
            s.x, s.head_mix, flat.reshape(state.shape), head.scale, head.base, shape.hc_eps
        )
        ops.rms_norm(s.x, s.x, head.norm, shape.rms_eps)
        ops.matmul(out, s.x, self.model.output)
        if self.layers.tap:
            self.layers.tap("logits", shape.n_layer, out)
        return out
