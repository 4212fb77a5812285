"""The forward pass of the trunk: embed, layers, head; for one token, a few rows or a chunk."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.cache.kv import KVCache
from engine.forward.layer import LayerPass
from engine.forward.model import Model
from engine.forward.rope import RopeTable
from engine.forward.scratch import Scratch
from engine.ops.base import Backend
from engine.ops.operands import Array, Head, Position, Span, Windows
from engine.shape import Shape


class Trunk:
    """Evaluates tokens with one model and one kernel set; owns the activations, no history.

    Parameters
    ----------
    ops : Backend
    model : Model
    official : bool
        See `EngineOptions.kv`.
    rows : int
        Most tokens per call.
    ctx : int
        Positions that will be asked for: 0 .. ctx + rows - 1.
    """

    def __init__(self, ops: Backend, model: Model, official: bool, rows: int, ctx: int) -> None:
        self.ops = ops
        self.model = model
        self.shape: Shape = model.shape
        self.scratch = Scratch(ops, model.shape, rows)
        self.layers = LayerPass(ops, model.shape, official)
        # By whether a layer has a compressor: angles as computed, and as the kernel set takes them.
        self.rope = {kind: RopeTable(model.shape, compressed=kind) for kind in (False, True)}
        self._tables = {kind: ops.rope_table(t, ctx + rows) for kind, t in self.rope.items()}
        self._ratios = sorted({r for r in model.shape.compress_ratios if r})
        self._kept: dict[int, Array] = {}
        self._evaluated = False

    def keep_outputs(self, layer: int, ring: Array) -> None:
        """Let every pass write a layer's output to a ring by position.

        Recorded passes contain the writing, so it must be asked for before the first evaluation.

        Parameters
        ----------
        layer : int
            0 to n_layer - 1; the last one's output is the final state.
        ring : float32 Array of shape (any, n_hc, n_embd)
            Keeps the last rows; row ``position % len(ring)``.
        """
        assert not self._evaluated, "outputs to keep are named before the first evaluation"
        assert 0 <= layer < self.shape.n_layer, layer
        self._kept[layer] = ring

    def span(self, first: int, pos0: Position, n: int) -> Span:
        """The rows of a pass at positions first .. first + n - 1, for its layers."""
        ops = self.ops
        rotation = {kind: ops.rotation(table, pos0, n) for kind, table in self._tables.items()}
        windows: dict[int, Windows] = {}
        for ratio in self._ratios:
            windows[ratio] = ops.windows(self._tables[True], pos0, n, ratio)
        return Span(n, first, pos0, self.layers.indexing(first, n), rotation, windows)

    def evaluate(self, cache: KVCache, tokens: np.ndarray, first: int) -> Array:
        """Run tokens at positions first, first + 1, ... through all layers.

        Their rows are appended to the cache.

        Parameters
        ----------
        cache : KVCache
        tokens : int32 array of shape (n,)
            Ids already checked against the vocabulary; n at most the rows of this object.
        first : int

        Returns
        -------
        float32 Array of shape (n, n_hc, n_embd)
            Final state of every row; a view that the next call overwrites.
        """
        n = len(tokens)
        s = self.scratch.view(n)
        s.tokens[:] = tokens

        def body(pos0: Position) -> None:
            ops = self.ops
            ops.embed_hc(s.state, s.tokens, self.model.embed)
            span = self.span(first, pos0, n)
            for index, layer in enumerate(self.model.layers):
                self.layers.run(index, layer, cache.layers[index], s, span)
                ring = self._kept.get(index)
                if ring is not None:
                    ops.ring_put(ring, s.state, pos0, max(n - len(ring), 0))

        self._evaluated = True
        self.run_pass("trunk", n, first, body)
        return s.state

    def run_pass(
        self,
        name: str,
        n: int,
        first: int,
        body: Callable[[Position], None],
        owner: object = None,
    ) -> None:
        """Run a pass of this object's layers, which a kernel set may record and replay.

        What a pass does must follow from `name`, n, and whether the indexer takes part, and it
        must work on the same arrays of its owner (this object by default) each time; only the
        position may differ.
        """
        key = (name, n, self.layers.indexing(first, n))
        probed = self.layers.probe is not None
        self.ops.run(owner or self, None if probed else key, first, body)

    def logits(
        self,
        state: Array,
        out: Array | None = None,
        head: Head | None = None,
        name: str | None = None,
        owner: object = None,
    ) -> Array:
        """Logits of the given rows.

        Parameters
        ----------
        state : float32 Array of shape (n, n_hc, n_embd)
        out : float32 Array of shape (n, n_vocab), optional
            Overwritten; without it a fresh array is made.
        head : Head, optional
            Another block's head (MTP); the trunk's by default.
        name : str, optional
            Names calls that take the same arrays each time, so that they may be recorded.
        owner : object, optional
            Whose arrays they are; this object's by default.

        Returns
        -------
        float32 Array of shape (n, n_vocab)
        """
        ops, shape = self.ops, self.shape
        weights = self.model.head if head is None else head
        output = self.model.output
        n = len(state)
        target = ops.new_array((n, shape.n_vocab)) if out is None else out
        s = self.scratch.view(n)

        def body(pos0: Position) -> None:
            ops.head(s, state, weights, output, shape)
            ops.matmul(target, s.x, output)

        ops.run(owner or self, None if name is None else (name, n), 0, body)
        if self.layers.probe:
            self.layers.probe.tap("logits", shape.n_layer, target)
        return target
