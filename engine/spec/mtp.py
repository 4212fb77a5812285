"""The MTP block as a drafter: owns its rows and which of them are true, never the timeline.

Row q of the block belongs to token t_q and pairs it with the trunk's state after t_(q-1), as the
block was trained (DeepSeek V3 technical report, section 2.2); its logits guess t_(q+1).
"""

from __future__ import annotations

from time import perf_counter

import numpy as np

from engine.cache.kv import ROLLBACK
from engine.forward.scratch import Scratch
from engine.forward.trunk import Trunk
from engine.ops.activations import Activations
from engine.ops.operands import Array, LayerCache, Logits, Position
from engine.session import Session
from engine.spec.protocol import MAX_DRAFT, Drafts, Policy, Rule


class MtpDrafter:
    """Drafts tokens behind a session's live end.

    The block's window is kept without holes: before the first draft it is filled from the
    session's last states, and after a verification the rows of accepted tokens are written again
    from the trunk's true states. Positions are counted from the first row that exists, so that
    the window never reaches into rows that were never written (rotation is relative).

    Parameters
    ----------
    session : Session
        Its engine must have an MTP block.
    """

    most = MAX_DRAFT

    def __init__(self, session: Session) -> None:
        engine = session.engine
        assert engine.mtp is not None
        self.session = session
        self.block = engine.mtp
        self.trunk: Trunk = session.trunk
        shape = engine.shape
        self._rows = shape.n_swa
        ops = engine.ops
        cap = -(-(2 * self._rows + ROLLBACK) // 256) * 256
        official = engine.options.kv == "official"
        self.cache = LayerCache(0, ops.new_kv_rows(cap, shape.head_dim, official))
        # The trunk's scratch is in use between a verification and the rewrite of its rows.
        self._scratch = Scratch(ops, shape, max(self._rows, ROLLBACK))
        rows = max(self._rows, ROLLBACK)
        self._norm = ops.new_array((rows, shape.n_hc, shape.n_embd))
        # Passes work on the same arrays each time, so the states they start from are copied here.
        self._source = ops.new_array((rows, shape.n_hc, shape.n_embd))
        self._logits = ops.new_array((1, shape.n_vocab))
        self._base = 0  # position of the block's first row
        self._end = -1  # position that the next row must have; -1: nothing is valid
        self._epoch = -1

    def ready(self) -> bool:
        """Bring the window up to the live end; False when the session has no state to draft from.

        Costs one pass over the missing rows (keys and values only) after a sync, a restore or a
        rewind, nothing otherwise.
        """
        session = self.session
        if session.hidden is None:
            return False
        b = session.n_past
        if self._epoch == session.epoch and self._end == b:
            return True
        first, states, tokens = session.history(self._rows)
        # Row q needs the state after q - 1, so the oldest state gives the second row.
        self._base = first + 1
        if b - 1 > first:
            self._store(states[:-1], tokens[1:], first + 1)
        self._end = b
        self._epoch = session.epoch
        return True

    def keep_up(self) -> bool:
        """See `Drafter`; a window with a hole is filled anew, which costs a pass over all of it."""
        return self.ready()

    def draft(self, state: Array, token: int, pos: int) -> tuple[Logits, Array]:
        """One pass of the block for `token` at `pos`.

        Parameters
        ----------
        state : float32 Array of shape (n_hc, n_embd)
            The trunk's state after the token before, or the block's own for a further draft.
        token : int
        pos : int

        Returns
        -------
        logits : Logits
            Guess of the token at pos + 1; overwritten by the next call.
        state : float32 Array of shape (n_hc, n_embd)
            The block's state; a view that the next call overwrites.
        """
        s = self._scratch.view(1)
        s.tokens[:] = np.array([token], np.int32)
        self._source[:1] = state.reshape(1, *state.shape)
        at = pos - self._base

        def body(pos0: Position) -> None:
            self._enter(s, 1)
            span = self.trunk.span(at, pos0, 1)
            n_layer = self.session.engine.shape.n_layer
            self.trunk.layers.run(n_layer, self.block.layer, self.cache, s, span)

        self.trunk.run_pass("draft", 1, at, body, self)
        logits = self.trunk.logits(s.state, self._logits, self.block.head, "draft head", self)
        return Logits(self.trunk.ops, logits, 0), s.state[0]

    def propose(self, token: int, pos: int, k: int, policy: Policy, rule: Rule) -> Drafts:
        """See `Drafter`; each draft takes one pass of the block, which starts from the last."""
        begin = perf_counter()
        found = Drafts()
        state = self.session.hidden
        assert state is not None  # the drafter was ready
        for i in range(k):
            logits, state = self.draft(state, token, pos + i)
            if not rule.goes_on(i, logits, None):
                break
            token, note = policy.propose(logits, pos + i + 1)
            found.tokens.append(token)
            found.notes.append(note)
            if token in rule.stop:
                break
        found.block_s = perf_counter() - begin
        return found

    def committed(self, first: int) -> None:
        """Write the rows of tokens from `first` on again, from the trunk's true states."""
        session = self.session
        n = session.n_past - first
        if n:
            self._store(session.states(first - 1, n), session.tail(first), first)
        self._end = session.n_past
        self._epoch = session.epoch

    def _store(self, states: Array, tokens: np.ndarray, pos0: int) -> None:
        """Keys and values of rows whose logits nobody needs: no queries, no feed-forward."""
        n = len(tokens)
        s = self._scratch.view(n)
        s.tokens[:] = tokens
        self._source[:n] = states
        at = pos0 - self._base

        def body(pos0: Position) -> None:
            self._enter(s, n)
            rotation = self.trunk.span(at, pos0, n).rotation[self.block.layer.ratio > 0]
            self.trunk.layers.store_rows(self.block.layer, self.cache, s, pos0, rotation)

        self.trunk.run_pass("draft rows", n, at, body, self)

    def _enter(self, s: Activations, n: int) -> None:
        """The block's input state: projected embedding plus projected trunk state per stream."""
        ops, shape, block = self.trunk.ops, self.session.engine.shape, self.block
        ops.embed_hc(s.x.reshape(n, 1, -1), s.tokens, self.trunk.model.embed)
        ops.rms_norm(s.a, s.x, block.enorm, shape.rms_eps)
        ops.matmul(s.y, s.a, block.e_proj)
        flat = self._norm[:n].reshape(n * shape.n_hc, -1)
        source = self._source[:n].reshape(n * shape.n_hc, -1)
        ops.rms_norm(flat, source, block.hnorm, shape.rms_eps)
        ops.matmul(s.state.reshape(n * shape.n_hc, -1), flat, block.h_proj)
        ops.add_streams(s.state, s.y)
