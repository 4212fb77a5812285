"""A DSpark drafter's layers and heads, ready to run, and the three passes that they are for.

Equations after arXiv:2607.05147 and the `dspark_*` part of release 0731. A *context row* of a stage
comes from the outputs of tapped trunk layers alone; a *block* is the pending token and tokens of
noise behind it, whose rows all see each other; the *Markov head* adds to a slot's logits what the
token before it says. Which positions are drafted, and what becomes of drafts, is not known here.

Passes of the usual numbers of rows can be recorded; the position alone differs between their runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import NonFiniteError
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
    confidence : Array of shape (n_embd + rank,)
    """

    spark: DsparkShape
    main_proj: tuple[Weight, ...]
    main_norm: Array
    stages: tuple[Layer, ...]
    sinks: tuple[Array, ...]
    head: Head
    markov_1: Weight
    markov_2: Weight
    confidence: Array


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
        place(vector(bound.conf_proj).reshape(-1)),
    )


@dataclass(slots=True)
class Walk:
    """Drafts of a block that were all chosen as first maxima.

    Parameters
    ----------
    tokens : list of int or None
        None where the logits are not finite.
    confidences : list of float
    """

    tokens: list[int | None]
    confidences: list[float]

    def token(self, slot: int) -> int:
        """The draft of a slot.

        Raises
        ------
        NonFiniteError
            If its logits hold NaN or an infinity.
        """
        token = self.tokens[slot]
        if token is None:
            raise NonFiniteError("logits: expected finite values, found NaN or infinity")
        return token


class DsparkPass:
    """Runs a drafter's passes on arrays of its own.

    Parameters
    ----------
    trunk : Trunk
        Of the session that is drafted for.
    model : DsparkModel
    rows : int
        Most context rows of one call, and of those that a block sees.
    cap : int
        Rows that each stage keeps by position: the window, a block and the rollback at least.
    official : bool
        See `EngineOptions.kv`.

    Attributes
    ----------
    logits : Array of shape (block, n_vocab)
        Of the slots that were followed since the block ran.
    """

    def __init__(
        self, trunk: Trunk, model: DsparkModel, rows: int, cap: int, official: bool
    ) -> None:
        ops, shape, spark = trunk.ops, trunk.shape, model.spark
        self.trunk = trunk
        self.model = model
        self._window = rows
        self._scratch = Scratch(ops, shape, max(rows, spark.block))
        self._caches = [
            LayerCache(0, ops.new_kv_rows(cap, shape.head_dim, official)) for _ in model.stages
        ]
        self._rows = ops.new_array((spark.block, spark.rank))
        self._ids = ops.new_array((spark.block + 1,), np.int32)
        self._bad = ops.new_array((spark.block,), np.int32)
        self._report = ops.new_array((spark.block, 2))
        self._base = ops.new_array((spark.block, shape.n_vocab))
        self.logits = ops.new_array((spark.block, shape.n_vocab))
        self._banned: dict[bytes, tuple[int, Array | None]] = {}

    def store_context(self, rings: Sequence[Array], first: int, n: int) -> None:
        """Rows of n positions from `first` on, from the outputs of the tapped layers.

        Parameters
        ----------
        rings : sequence of float32 Arrays of shape (cap, n_hc, n_embd)
            By position, in the order of the layers; the same ones in every call.
        """
        trunk, model = self.trunk, self.model
        ops, shape = trunk.ops, trunk.shape
        s = self._scratch.view(n)

        def body(pos0: Position) -> None:
            for ring, part, to in zip(rings, model.main_proj, [s.y, *[s.a] * len(rings)]):
                ops.ring_mean(s.x, ring, pos0)
                ops.matmul(to, s.x, part)
                if to is not s.y:
                    ops.add(s.y, to)
            ops.rms_norm(s.a, s.y, model.main_norm, shape.rms_eps)
            rotation = trunk.span(first, pos0, n).rotation[False]
            for stage, cache in zip(model.stages, self._caches):
                trunk.layers.store_context(stage, cache, s.a, s, pos0, rotation)

        # As many rows as a step commits; more come after a prompt or a pause, seldom twice alike.
        key = ("dspark rows", n) if n <= model.spark.block + 1 else None
        ops.run(self, key, first, body)

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
        # A full window, or all positions that there are, is one pass; otherwise rows are missing.
        whole = before == min(self._window, first)
        seen = self._window if whole else before

        def body(pos0: Position) -> None:
            ops.embed_hc(s.state, s.tokens, trunk.model.embed)
            span = trunk.span(first, pos0, spark.block)
            for i, (stage, cache) in enumerate(zip(model.stages, self._caches)):
                block = Block(model.sinks[i], seen)
                trunk.layers.run_block(shape.n_layer + i, stage, cache, s, span, block)
            # As `Backend.head`, which does not leave the mixed row as it is before the norm.
            head = model.head
            ops.rms_norm(s.flat, s.state_flat, None, shape.rms_eps)
            ops.matmul(s.head_mix, s.flat, head.fn)
            ops.hc_collapse(s.a, s.head_mix, s.state, head.scale, head.base, shape.hc_eps)
            ops.rms_norm(s.x, s.a, head.norm, shape.rms_eps)
            ops.matmul(self._base[:k], s.x[:k], trunk.model.output)

        ops.run(self, ("dspark block", spark.block, k) if whole else None, first, body)

    def follow(self, slot: int, previous: int) -> float:
        """Put a slot's logits after `previous`, the token before it, into `logits`.

        Returns
        -------
        float
            Confidence that the draft of this slot is kept, 0 to 1; it does not depend on which
            draft is made of the logits.
        """
        ops = self.trunk.ops
        self._ids[slot : slot + 1] = np.array([previous], np.int32)

        def body(pos0: Position) -> None:
            self._follow(slot)
            self._tell(slot, slot + 1)

        ops.run(self, ("dspark slot", 1, slot), 0, body)
        return _sigmoid(self.confidence_logit(slot))

    def walk(self, token: int, k: int, banned: np.ndarray) -> Walk:
        """Follow k slots by first maxima, none of `banned`, and read what they are once.

        Gives the drafts and confidences that `follow` and `Logits.choose` give one by one.
        """
        ops, (name, ids) = self.trunk.ops, self._without(banned)
        self._ids[:1] = np.array([token], np.int32)

        def body(pos0: Position) -> None:
            for slot in range(k):
                self._follow(slot)
                to, bad = self._ids[slot + 1 : slot + 2], self._bad[slot : slot + 1]
                ops.first_maxima(to, bad, self.logits[slot : slot + 1], ids)
            self._tell(0, k)

        ops.run(self, ("dspark walk", k, name), 0, body)
        told = np.asarray(self._report[:k])
        tokens = [int(x) if np.isfinite(x) else None for x in told[:, 1]]
        return Walk(tokens, [_sigmoid(float(x)) for x in told[:, 0]])

    def confidence_logit(self, slot: int) -> float:
        """Of a slot that was followed."""
        return float(np.asarray(self._report[slot])[0])

    def _follow(self, slot: int) -> None:
        """Logits of a slot behind its entry of `_ids`."""
        ops, model, at = self.trunk.ops, self.model, slice(slot, slot + 1)
        row, logits = self._rows[at], self.logits[at]
        ops.embed_hc(row.reshape(1, 1, -1), self._ids[at], model.markov_1)
        ops.matmul(logits, row, model.markov_2)
        ops.add(logits, self._base[at])

    def _tell(self, first: int, stop: int) -> None:
        """Put what the host asks of some slots into the report."""
        at, hidden = slice(first, stop), self._scratch.view(self.model.spark.block).a
        ids, bad = self._ids[first + 1 : stop + 1], self._bad[at]
        report = self.trunk.ops.draft_report
        report(self._report[at], hidden[at], self._rows[at], self.model.confidence, ids, bad)

    def _without(self, banned: np.ndarray) -> tuple[int, Array | None]:
        """A number for some banned ids, and the ids as the set takes them."""
        key = banned.tobytes()
        if key not in self._banned:
            ids = self.trunk.ops.vector(banned.astype(np.int32)) if banned.size else None
            self._banned[key] = len(self._banned), ids
        return self._banned[key]


def _sigmoid(x: float) -> float:
    return float(0.5 * (1 + np.tanh(0.5 * x)))
