"""The seam between the model and its kernels: what the engine asks of a kernel set, as a type.

`Backend` names every method that engine, session, forward pass, cache and drafter call, with the
shapes of its arguments; `Device` (in `engine.ops.device`) is its half about memory and passes. It
does not know how an op is computed: `engine.ops.reference` gives the formulas in NumPy float64,
`engine.ops.cpu` and `engine.ops.cuda` compute fast. `ComposedOps` writes the combined ops in terms
of the plain ones; a set overrides those that it does faster.

Conventions. Outputs come first and are overwritten; an output is none of the inputs unless said
otherwise. n is the number of rows (tokens) in a call, other axis names are `Shape`'s. Activations
are float32 and contiguous (the reference set takes any float type). Arrays are the set's own.

Positions. Row i of a pass is at position ``pos0 + i``. `run` hands `pos0` to the body of the pass
in the form that the set's ops take (see `Position`), and every op whose result depends on it takes
it as the argument `pos0`; rotations depend on it through `cos` and `sin`, which `rotation` and
`windows` make of it. So a set that records passes replays them at another position, and no op
knows a position in any other way.

Row exactness. Row i of any output depends on row i of the inputs (and on earlier rows only through
stored rows) and on nothing else: not on n, not on the chunking, not on the thread count, not on
whether a weight was repacked. Each output has one order of summation. `tests/engine/test_exact.py`
holds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from engine.ops.activations import Activations
from engine.ops.device import Device
from engine.ops.operands import (
    Array,
    Head,
    HyperConnection,
    IndexRows,
    Layer,
    LayerCache,
    Position,
    Span,
    Weight,
    Windows,
)
from engine.shape import Shape

__all__ = ["Backend"]


class Backend(Device, Protocol):
    """A kernel set: where it computes (`Device`), and its ops."""

    # Products

    def embed_hc(self, state: Array, tokens: Array, table: Weight) -> None:
        """Copy rows of `table` named by tokens, int32 (n,), into every stream of state."""

    def matmul(self, out: Array, x: Array, w: Weight) -> None:
        """out (n, rows) = x (n, cols) @ w.T, w of shape (rows, cols)."""

    def matmul_multi(self, outs: Sequence[Array], x: Array, ws: Sequence[Weight]) -> None:
        """`matmul` of the same x with several weights ws; outs as many arrays."""

    def matmul_grouped(self, out: Array, x: Array, w: Weight) -> None:
        """out (n, g, r) of x (n, g, cols): group i meets rows i*r .. i*r + r - 1 of w."""

    # Norms, rotations, streams

    def rms_norm(self, out: Array, x: Array, weight: Array | None, eps: float) -> None:
        """Scale rows of x (n, d) to unit root mean square, then by weight (d,), None for ones.

        `eps` is added to the mean square. out may be x.
        """

    def q_norm_rope(self, q: Array, cos: Array, sin: Array, eps: float) -> None:
        """`rms_norm` of each head without weight, with `eps`, then `rope_tail`; in place.

        q (n, n_head, head_dim); `cos` and `sin` are a `Rotation`.
        """

    def rope_tail(self, x: Array, cos: Array, sin: Array, inverse: bool) -> None:
        """Rotate the last n_rot dims of each head of x (n, n_head, head_dim) in place.

        `cos` and `sin` are a `Rotation`; `inverse` rotates back.
        """

    def hc_split(
        self,
        x: Array,
        post: Array,
        comb: Array,
        mix: Array,
        state: Array,
        scale: Array,
        base: Array,
        n_iter: int,
        eps: float,
    ) -> None:
        """Mix the streams of `state` into x (n, n_embd); find how the output will be spread.

        mix (n, hc_mix) are logits, scaled by `scale` (3,) and shifted by `base` (hc_mix,); post
        (n, n_hc) and comb (n, n_hc, n_hc) go to `hc_expand`. `n_iter` column passes of Sinkhorn
        and Knopp, each with `eps`.
        """

    def hc_expand(self, out: Array, y: Array, post: Array, comb: Array, state: Array) -> None:
        """out[:, o] = y (n, n_embd) * post[:, o] + sum over s of comb[:, s, o] * state[:, s].

        out (n, n_hc, n_embd) may be `state`.
        """

    def hc_collapse(
        self, x: Array, mix: Array, state: Array, scale: Array, base: Array, eps: float
    ) -> None:
        """x (n, n_embd) = sum over streams of (sigmoid(mix*scale + base) + eps) * state.

        mix (n, n_hc), scale (1,), base (n_hc,).
        """

    def ring_mean(self, out: Array, ring: Array, pos0: Position) -> None:
        """out (n, n_embd) = mean over the streams of rows pos0, pos0 + 1, ... of a ring.

        ring (cap, n_hc, n_embd) by position; the streams are added in order, then scaled.
        """

    def add_streams(self, state: Array, y: Array) -> None:
        """Add y (n, n_embd) to every stream of state (n, n_hc, n_embd)."""

    def add(self, out: Array, x: Array) -> None:
        """out += x, arrays of one shape (n, d)."""

    # Stored rows

    def kv_store(
        self,
        ring: Array,
        kv: Array,
        weight: Array,
        cos: Array,
        sin: Array,
        pos0: Position,
        eps: float,
        official: bool,
    ) -> None:
        """Norm kv by `weight` with `eps`, rotate its tail by `cos` and `sin`, store it.

        kv is (n, head_dim), weight (head_dim,). `ring` (cap, head_dim) gets row i at
        ``(pos0 + i) % cap``; n <= cap. If `official`, dims before the tail take a round trip
        through FP8, and all are rounded to float16.
        """

    def compressor_pool(
        self,
        pooled: Array,
        ring_kv: Array,
        ring_score: Array,
        kv: Array,
        score: Array,
        ape: Array,
        pos0: Position,
        ratio: int,
    ) -> None:
        """Pool each window of `ratio` positions that ends in the pass; remember the last positions.

        pooled (windows.rows, d) gets row i of window ``pos0 // ratio + i``: per dim a softmax over
        the candidates' scores weighs their kv. kv and score (n, W) are this pass's projections,
        ape (ratio, W) is added to a score by position modulo ratio; ring_kv and ring_score
        (ring_rows, W) hold earlier positions' and are brought up to date.
        """

    def compressor_store(
        self,
        rows: Array,
        pooled: Array,
        weight: Array,
        windows: Windows,
        pos0: Position,
        eps: float,
        official: bool,
    ) -> None:
        """Finish pooled rows as `kv_store` does, with `weight`, `eps` and the angles of `windows`.

        rows (cap, head_dim) gets window w at row w; `pooled` is what `compressor_pool` made at
        `pos0`; `official` as there.
        """

    def indexer_store(
        self,
        rows: IndexRows,
        pooled: Array,
        weight: Array,
        windows: Windows,
        pos0: Position,
        eps: float,
        official: bool,
    ) -> None:
        """As `compressor_store`, into the indexer's rows: norm pooled (windows.rows, idx_head_dim)
        by `weight` with `eps`, rotate at `pos0`; if `official`, Hadamard transform, then FP4."""

    # Selection and attention

    def indexer_query(self, q: Array, cos: Array, sin: Array, official: bool) -> None:
        """`rope_tail` by `cos` and `sin`, if `official` a Hadamard transform and FP4; in place.

        q (n, n_idx_head, idx_head_dim).
        """

    def indexer_select(
        self,
        sel: Array,
        n_sel: Array,
        q: Array | None,
        head_w: Array | None,
        rows: IndexRows,
        pos0: Position,
        ratio: int,
        margin: Array | None,
    ) -> None:
        """Choose the compressed rows that each query sees: all of ``(pos0 + i + 1) // ratio``, or
        the top_k with the greatest scores, equal ones by lower row.

        sel int32 (n, top_k) ascending, n_sel int32 (n,) says how many count. q is what
        `indexer_query` left, head_w (n, n_idx_head) weighs heads; both None if no query has more
        than top_k rows. margin (n,) or None: last score kept minus first dropped, else infinity.
        """

    def attend(
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
    ) -> None:
        """Softmax attention of q (n, n_head, head_dim) into `out`; `sinks` has a logit per head.

        A query at position ``pos0 + i`` sees the raw rows of the last `n_swa` positions in `ring`,
        oldest first, then compressed `rows`: those that `sel` and `n_sel` name, or all complete
        windows of `ratio` where they are None. rows is None where ratio is 0.
        """

    def attend_block(
        self, out: Array, q: Array, ring: Array, sinks: Array, pos0: Position, before: int
    ) -> None:
        """`attend` of q (n, n_head, head_dim) into out, where all rows see the same rows of `ring`.

        These are the last `before` positions before `pos0`, or all that there are, and then all n
        rows of the block itself. `sinks` is (n * n_head,): the heads' logits once for each row.
        """

    # Experts and choice

    def router_select(
        self,
        ids: Array,
        weights: Array,
        logits: Array,
        bias: Array | None,
        scale: float,
        margin: Array | None,
    ) -> None:
        """ids int32 (n, n_expert_used) with the greatest p + bias, p = sqrt(softplus(logits)).

        weights are their p over the sum of them, times `scale`. margin (n,) or None: p + bias of
        the last kept minus the first dropped.
        """

    def router_hash(
        self, ids: Array, weights: Array, logits: Array, table: Array, tokens: Array, scale: float
    ) -> None:
        """ids = table[tokens], table int32 (n_vocab, n_expert_used).

        weights of `logits` and `scale` as in `router_select`.
        """

    def routed_moe(
        self,
        out: Array,
        x: Array,
        ids: Array,
        weights: Array,
        gate: Weight,
        up: Weight,
        down: Weight,
        limit: float,
    ) -> None:
        """out = sum over slots of down[e] @ (silu(gate[e] @ x) * (up[e] @ x) * weight), e of `ids`.

        gate[e] @ x is clamped above, up[e] @ x on both sides at `limit`, unless it is 1e-6 or
        less; `weights` as `router_select` made them.
        """

    def shared_ffn(
        self, out: Array, x: Array, gate: Weight, up: Weight, down: Weight, limit: float
    ) -> None:
        """`routed_moe` into out of one expert (gate, up, down, limit) that every row of x uses."""

    def choose(self, rows: Array, row: int, banned: np.ndarray) -> int:
        """Index of the first maximum of ``rows[row]``, none of `banned` (int64, ascending).

        `rows` (n, n_vocab) are all rows of one evaluation: a set may look at them together and
        answer for the others later, as long as nothing has overwritten them.

        Raises
        ------
        NonFiniteError
            If a value of the row is NaN or infinite.
        """

    def first_maxima(self, ids: Array, bad: Array, rows: Array, banned: Array | None) -> None:
        """`choose` of every row of `rows` (n, n_vocab), left where the set computes.

        ids int32 (n,), always of the vocabulary; bad int32 (n,): not 0 where the row has a NaN or
        an infinity, so that its id means nothing. `banned` int32 (any,) or None.
        """

    def draft_report(
        self,
        out: Array,
        hidden: Array,
        rows: Array,
        weight: Array,
        ids: Array,
        bad: Array,
    ) -> None:
        """What a host asks of k drafts, in one array (k, 2) that is read at once.

        out[:, 0] = hidden (k, n_embd) and rows (k, rank), side by side, @ weight (n_embd + rank,):
        the logits of confidences. out[:, 1] = ids as float32, NaN where `bad` is not 0.
        """

    # Combinations (see `engine.ops.composed`)

    def enter(
        self,
        s: Activations,
        hc: HyperConnection,
        norm: Array,
        following: Sequence[Weight],
        shape: Shape,
    ) -> None:
        """s.state -> s.a, a sublayer's input normed by `norm`, which `following` will multiply.

        Also s.post and s.comb for `hc_expand`; `hc` and `shape` give weights and constants.
        """

    def head(self, s: Activations, state: Array, head: Head, output: Weight, shape: Shape) -> None:
        """state (n, n_hc, n_embd) -> s.x, what the `output` matrix is multiplied with.

        `head` and `shape` give weights and constants.
        """

    def attention_rows(
        self,
        s: Activations,
        layer: Layer,
        cache: LayerCache,
        span: Span,
        shape: Shape,
        official: bool,
    ) -> None:
        """What a layer does with its first projections: norm s.q_a, store s.kv, pool and store.

        `rms_norm`, `kv_store`, then `compressor_pool` and the stores of a `layer` that has them,
        into `cache`, at the positions of `span`; `shape` and `official` as elsewhere.
        """

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
        """`attend` of q, ring, rows, sel, n_sel, sinks, pos0, n_swa and ratio, then `rope_tail` of
        `out` backwards by `cos` and `sin`."""

    def feed_forward(self, s: Activations, layer: Layer, shape: Shape) -> None:
        """s.a -> s.y: routed experts of `layer` by s.ids and s.weights, and the shared one where
        `shape` has it."""
