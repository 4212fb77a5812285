"""A DSpark drafter's layers and heads, ready to run, and the three passes that they are for.

Equations after arXiv:2607.05147 and the `dspark_*` part of release 0731. A *context row* of a stage
comes from the outputs of tapped trunk layers alone; a *block* is the pending token and tokens of
noise behind it, whose rows all see each other; the *Markov head* adds to a slot's logits what the
token before it says. Which positions are drafted, and what becomes of drafts, is not known here.

Every op is one that the trunk uses as well. The mean over streams is `hc_collapse` with logits of 0
and an epsilon that makes each weight exactly 1 / n_hc.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.forward.layer import Block
from engine.forward.model import Preparer, vector
from engine.forward.scratch import Scratch
from engine.forward.trunk import Trunk
from engine.ops.operands import Array, Head, Layer, LayerCache, Position, Weight
from engine.shape import DsparkShape, Shape
from engine.weights.dspark.bind import DsparkWeights


@dataclass(slots=True)
class DsparkModel:
    """The drafter's weights; embedding and output matrix are the trunk's.

    Parameters
    ----------
    spark : DsparkShape
    main_proj : tuple of Weight
        For each tap its columns of the projection, (n_embd, n_embd).
    main_norm : Array of shape (n_embd,)
    stages : tuple of Layer
    sinks : tuple of Array
        For each stage its layer's sinks once for each row of a block, (block * n_head,).
    head : Head
    markov_1, markov_2 : Weight
        (n_vocab, rank): a row for a token, and what the row says of every token.
    confidence : float32 array of shape (n_embd + rank,)
        On the host, where confidences are computed.
    """

    spark: DsparkShape
    main_proj: tuple[Weight, ...]
    main_norm: Array
    stages: tuple[Layer, ...]
    sinks: tuple[Array, ...]
    head: Head
    markov_1: Weight
    markov_2: Weight
    confidence: np.ndarray


def prepare_dspark(
    preparer: Preparer,
    prepare: Callable[..., Weight],
    place: Callable[[np.ndarray], Array],
    shape: Shape,
    bound: DsparkWeights,
) -> DsparkModel:
    """A drafter in a kernel set's form; `prepare` and `place` as `Preparer` takes them."""
    limit, shared = shape.swiglu_limit[-1], shape.swiglu_limit_shared[-1]
    return DsparkModel(
        bound.spark,
        tuple(prepare(part) for part in bound.main_proj),
        place(vector(bound.main_norm)),
        tuple(preparer.layer(shape, stage, 0, limit, shared) for stage in bound.stages),
        tuple(place(np.tile(vector(x.attn_sinks), bound.spark.block)) for x in bound.stages),
        Head(
            prepare(bound.hc_head_fn),
            place(vector(bound.hc_head_scale)),
            place(vector(bound.hc_head_base)),
            place(vector(bound.norm)),
        ),
        prepare(bound.markov_w1),
        prepare(bound.markov_w2),
        vector(bound.conf_proj).reshape(-1),
    )


class DsparkPass:
    """Runs a drafter's passes on arrays of its own.

    Parameters
    ----------
    trunk : Trunk
        Of the session that is drafted for.
    model : DsparkModel
    rows : int
        Most context rows of one call.
    cap : int
        Rows that each stage keeps by position: the window, a block and the rollback at least.
    official : bool
        See `EngineOptions.kv`.
    """

    def __init__(
        self, trunk: Trunk, model: DsparkModel, rows: int, cap: int, official: bool
    ) -> None:
        ops, shape, spark = trunk.ops, trunk.shape, model.spark
        self.trunk = trunk
        self.model = model
        self._scratch = Scratch(ops, shape, max(rows, spark.block))
        self._caches = [
            LayerCache(0, ops.new_kv_rows(cap, shape.head_dim, official)) for _ in model.stages
        ]
        self._no_mix = ops.new_array((rows, shape.n_hc))
        self._no_scale = ops.new_array((1,))
        self._no_base = ops.new_array((shape.n_hc,))
        self._row = ops.new_array((1, spark.rank))
        self._token = ops.new_array((1,), np.int32)
        self._base = ops.new_array((spark.block, shape.n_vocab))
        self.logits = ops.new_array((1, shape.n_vocab))

    def store_context(self, taps: Sequence[Array], first: int) -> None:
        """Rows of positions first, first + 1, ... from the outputs of the tapped layers.

        Parameters
        ----------
        taps : sequence of float32 Arrays of shape (n, n_hc, n_embd)
            In the order of the layers.
        """
        trunk, model = self.trunk, self.model
        ops, shape = trunk.ops, trunk.shape
        n = len(taps[0])
        s = self._scratch.view(n)
        mean = 1 / shape.n_hc - 0.5

        def body(pos0: Position) -> None:
            for tap, part, to in zip(taps, model.main_proj, [s.y, *[s.a] * len(taps)]):
                mix = self._no_mix[:n]
                ops.hc_collapse(s.x, mix, tap, self._no_scale, self._no_base, mean)
                ops.matmul(to, s.x, part)
                if to is not s.y:
                    ops.add(s.y, to)
            ops.rms_norm(s.a, s.y, model.main_norm, shape.rms_eps)
            rotation = trunk.span(first, pos0, n).rotation[False]
            for stage, cache in zip(model.stages, self._caches):
                trunk.layers.store_context(stage, cache, s.a, s, pos0, rotation)

        ops.run(self, None, first, body)

    def run_block(self, token: int, first: int, before: int, k: int) -> None:
        """All rows of the block that begins with `token` at `first`; logits of the first k slots.

        Parameters
        ----------
        before : int
            Context rows that the block sees, the last ones before `first`.
        """
        trunk, model = self.trunk, self.model
        ops, shape, spark = trunk.ops, trunk.shape, model.spark
        s = self._scratch.view(spark.block)
        s.tokens[:] = np.array([token] + [spark.noise] * (spark.block - 1), np.int32)

        def body(pos0: Position) -> None:
            ops.embed_hc(s.state, s.tokens, trunk.model.embed)
            span = trunk.span(first, pos0, spark.block)
            for i, (stage, cache) in enumerate(zip(model.stages, self._caches)):
                block = Block(model.sinks[i], before)
                trunk.layers.run_block(shape.n_layer + i, stage, cache, s, span, block)
            # As `Backend.head`, which does not leave the mixed row as it is before the norm.
            head = model.head
            ops.rms_norm(s.flat, s.state_flat, None, shape.rms_eps)
            ops.matmul(s.head_mix, s.flat, head.fn)
            ops.hc_collapse(s.a, s.head_mix, s.state, head.scale, head.base, shape.hc_eps)
            ops.rms_norm(s.x, s.a, head.norm, shape.rms_eps)
            ops.matmul(self._base[:k], s.x[:k], trunk.model.output)

        ops.run(self, None, first, body)

    def follow(self, slot: int, previous: int) -> float:
        """Put a slot's logits after `previous`, the token before it, into `logits`.

        Returns
        -------
        float
            Confidence that the draft of this slot is kept, 0 to 1; it does not depend on which
            draft is made of the logits.
        """
        ops, model = self.trunk.ops, self.model
        self._token[:] = np.array([previous], np.int32)
        ops.embed_hc(self._row.reshape(1, 1, -1), self._token, model.markov_1)
        ops.matmul(self.logits, self._row, model.markov_2)
        ops.add(self.logits, self._base[slot : slot + 1])
        return _sigmoid(self.confidence_logit(slot))

    def confidence_logit(self, slot: int) -> float:
        """Of the slot that was followed last."""
        hidden = np.asarray(self._scratch.view(self.model.spark.block).a[slot])
        both = np.concatenate([hidden, np.asarray(self._row[0])]).astype(np.float64)
        # One order of summation on every machine: no product of a linear algebra library.
        return float(np.multiply(both, self.model.confidence, dtype=np.float64).sum())


def _sigmoid(x: float) -> float:
    return float(0.5 * (1 + np.tanh(0.5 * x)))
