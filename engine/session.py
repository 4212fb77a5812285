"""One timeline of tokens: sync, eval, verify, rewind, save, restore. Owns its rows, no weights."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from engine.cache import snapshot
from engine.cache.kv import ROLLBACK, KVCache
from engine.cache.session_file import SessionIdentity
from engine.cache.session_place import SessionPlace
from engine.cache.snapshot import Snapshot
from engine.errors import ContextError, RebuildNeeded
from engine.forward.opened import OpenModel
from engine.forward.outputs import Outputs
from engine.forward.probe import Probe
from engine.forward.routing import Routing, routing_tap
from engine.forward.trunk import Trunk
from engine.ops.operands import Array, Logits

KEPT_CUTS = 64  # rewinds after which a drafter that slept through them begins anew
LOGIT_ROWS = 64  # rows of logits computed at a time when every position's are wanted


class Session:
    """A timeline over an engine; made by `Engine.session`.

    Going back is possible by `rewind` for the last few tokens, and by `restore` to any snapshot;
    anything else needs a new session, because compressed rows cannot be taken apart.
    """

    def __init__(self, engine: OpenModel, ctx: int) -> None:
        self.engine = engine
        self.ctx = ctx
        options = engine.options
        self._chunk = min(options.prefill_chunk, ctx)
        official = options.kv == "official"
        self.cache = KVCache(engine.ops, engine.shape, ctx, self._chunk, official)
        rows = max(self._chunk, ROLLBACK)
        self.trunk = Trunk(engine.ops, engine.model, official, rows, ctx)
        self.place = SessionPlace()
        self._tokens: list[int] = []
        self._high = 0  # rows up to here may have been written
        self._floor = 0  # rows before here are not kept for going back
        # Row 0: the last token's; the rows of a verification follow from row 0 on, too.
        self._logits = engine.ops.new_array((1, engine.shape.n_vocab))
        self._checked = engine.ops.new_array((0, engine.shape.n_vocab))  # grows to 16 if used
        self._fresh = False  # whether _logits belongs to the last token
        # Changes whenever the live end moves by anything but appending; drafters watch it.
        self.epoch = 0
        # What drafters read: enough for a window, or just the last state.
        drafts = engine.mtp is not None or engine.dspark is not None
        self._final = engine.shape.n_layer - 1
        taps = engine.dspark.spark.taps if engine.dspark is not None else ()
        kept = engine.shape.n_swa + ROLLBACK if drafts else 1
        self._outputs = Outputs(self.trunk, (self._final, *taps), kept)
        # The latest cuts of the timeline: where each ended, the last one being this epoch's.
        self._cuts: deque[int] = deque(maxlen=KEPT_CUTS)

    @property
    def identity(self) -> SessionIdentity | None:
        """Title, time and id of a session that was saved or loaded."""
        return self.place.identity

    @property
    def n_past(self) -> int:
        """Tokens evaluated so far."""
        return len(self._tokens)

    @property
    def tokens(self) -> list[int]:
        """Copy of the token ids evaluated so far."""
        return list(self._tokens)

    @property
    def room(self) -> int:
        """Tokens that still fit."""
        return self.ctx - len(self._tokens)

    @property
    def logits(self) -> np.ndarray:
        """Logits after the last token, float32 (n_vocab,); overwritten by the next evaluation.

        Raises
        ------
        RebuildNeeded
            Right after `rewind`, until a token is evaluated.
        """
        if not self._fresh:
            raise RebuildNeeded("logits: expected an evaluated token, found none since the rewind")
        values: np.ndarray = np.asarray(self._logits[0])
        return values

    @property
    def last(self) -> Logits:
        """`logits` where the kernel set has them, for a policy to choose from.

        Raises
        ------
        RebuildNeeded
            Right after `rewind`, until a token is evaluated.
        """
        if not self._fresh:
            raise RebuildNeeded("logits: expected an evaluated token, found none since the rewind")
        return Logits(self.engine.ops, self._logits, 0)

    @property
    def hidden(self) -> Array | None:
        """Final state of the last token, float32 (n_hc, n_embd); None when it was not kept.

        An array of the kernel set, which the next evaluation may overwrite.
        """
        last = self.n_past - 1
        if last < self.known_from():
            return None
        return self._outputs.at(self._final, last)

    def tail(self, first: int) -> np.ndarray:
        """Token ids from position `first` on, int32."""
        return np.array(self._tokens[first:], np.int32)

    def history(self, n: int) -> tuple[int, Array, np.ndarray]:
        """States of the last tokens, as many of `n` as are known.

        Returns
        -------
        first : int
            Position of the oldest.
        states : float32 Array of shape (k, n_hc, n_embd)
        tokens : int32 array of shape (k,)
        """
        first = max(self.known_from(), self.n_past - n)
        return first, self.states(first, self.n_past - first), self.tail(first)

    def states(self, first: int, n: int) -> Array:
        """Final states of n tokens from position `first` on, which must be known.

        float32 Array of shape (n, n_hc, n_embd).
        """
        assert first + n <= self.n_past, (first, n)
        return self._outputs.get(self._final, first, n)

    def output_ring(self, layer: int) -> Array:
        """Where a layer's outputs are kept by position, (any, n_hc, n_embd); see `known_from`."""
        return self._outputs.ring(layer)

    def known_from(self) -> int:
        """First position whose outputs are known and still kept; `n_past` where none is."""
        return self._outputs.first(self.n_past)

    def unchanged_since(self, epoch: int) -> int:
        """Tokens before this position are what they were at that epoch, unless they are new."""
        n = self.epoch - epoch
        if n > len(self._cuts):
            return 0
        return min(list(self._cuts)[len(self._cuts) - n :], default=self.n_past)

    def _check(self, tokens: Sequence[int]) -> np.ndarray:
        ids = np.asarray(tokens, dtype=np.int64)
        n_vocab = self.engine.shape.n_vocab
        if ids.size and (ids.min() < 0 or ids.max() >= n_vocab):
            bad = int(ids[(ids < 0) | (ids >= n_vocab)][0])
            raise ContextError(f"token: expected an id from 0 to {n_vocab - 1}, found {bad}")
        if ids.size > self.room:
            raise ContextError(
                f"context: expected at most {self.ctx} tokens, "
                f"found {self.n_past} and {ids.size} more"
            )
        return ids.astype(np.int32)

    def _advance(self, ids: np.ndarray) -> Array:
        """Evaluate one chunk at the live end; returns the state rows (a view)."""
        pos0 = self.n_past
        self._fresh = False
        state = self.trunk.evaluate(self.cache, ids, pos0)
        self._outputs.extended(pos0 + len(ids))
        self._tokens.extend(ids.tolist())
        self._high = max(self._high, self.n_past)
        return state

    def _finish(self, state: Array) -> None:
        """Logits of the last row."""
        self.trunk.logits(state[-1:], self._logits, name=f"last of {len(state)}")
        self._fresh = True

    def sync(
        self, tokens: Sequence[int], progress: Callable[[int, int], None] | None = None
    ) -> int:
        """Make the timeline equal to `tokens`, evaluating only what is new; returns when it is.

        Parameters
        ----------
        tokens : sequence of int
            The whole text, not the new part.
        progress : callable, optional
            Called as ``progress(done, total)`` after every chunk.

        Returns
        -------
        int
            Tokens evaluated.

        Raises
        ------
        RebuildNeeded
            If `tokens` rewrites more than the last few tokens of the timeline.
        ContextError
            If they do not fit, or an id is not in the vocabulary; nothing is evaluated.
        """
        if len(tokens) == 0:
            raise ContextError("tokens: expected at least one, found none")
        live = self._tokens
        shared = 0
        limit = min(len(live), len(tokens))
        if list(tokens[:limit]) == live[:limit]:
            shared = limit
        else:
            while live[shared] == tokens[shared]:
                shared += 1
        if shared == len(tokens) and not (shared == len(live) and self._fresh):
            shared -= 1  # the last token again, for its logits
        if shared < len(live):
            if not self.can_rewind(shared):
                raise RebuildNeeded(
                    f"sync: expected an extension of the {len(live)} live tokens, "
                    f"found a text that differs from token {shared} on"
                )
            self.rewind(shared)
        new = self._check(tokens[shared:])
        total = len(new)
        for start in range(0, total, self._chunk):
            part = new[start : start + self._chunk]
            state = self._advance(part)
            if start + len(part) == total:
                self._finish(state)
            if progress:
                progress(start + len(part), total)
        self.engine.ops.wait()
        return total

    def eval(self, token: int) -> Logits:
        """Append one token; the logits after it, which the next evaluation overwrites."""
        self._finish(self._advance(self._check((token,))))
        return Logits(self.engine.ops, self._logits, 0)

    def verify(self, tokens: Sequence[int]) -> tuple[list[Logits], Array]:
        """Append a few tokens in one pass, with logits after each of them.

        Bits equal those of evaluating them one by one.

        Parameters
        ----------
        tokens : sequence of int
            1 to 16 ids; `rewind` afterwards drops those that are not wanted.

        Returns
        -------
        logits : list of Logits
            After each token; overwritten by the next verification.
        states : float32 Array of shape (n, n_hc, n_embd)
            A view that the next evaluation overwrites.
        """
        n = len(tokens)
        assert 1 <= n <= ROLLBACK, n
        states = self._advance(self._check(tokens))
        if not len(self._checked):
            self._checked = self.engine.ops.new_array((ROLLBACK, self.engine.shape.n_vocab))
        rows = self.trunk.logits(states, self._checked[:n], name="verify")
        self._logits[...] = rows[n - 1 :]
        self._fresh = True
        return [Logits(self.engine.ops, rows, i) for i in range(n)], states

    def can_rewind(self, n_past: int) -> bool:
        """Whether the timeline can be cut to n_past tokens without a snapshot."""
        return max(self._floor, self._high - ROLLBACK) <= n_past <= self.n_past or n_past == 0

    def rewind(self, n_past: int, logits: Array | None = None) -> None:
        """Drop the tokens after the first n_past.

        Parameters
        ----------
        n_past : int
        logits : float32 Array of shape (n_vocab,), optional
            Those of the new last token where the caller has them (from `verify`).

        Raises
        ------
        RebuildNeeded
            If the rows for that are gone.
        """
        if n_past == self.n_past:
            return
        if not self.can_rewind(n_past):
            oldest = max(self._floor, self._high - ROLLBACK)
            raise RebuildNeeded(
                f"rewind: expected {oldest} to {self.n_past} tokens, found {n_past}"
            )
        self._outputs.cut(n_past)
        del self._tokens[n_past:]
        self._fresh = False
        self._cut(n_past)
        if n_past == 0:
            self._high = self._floor = 0
            self.place.identity = None
            return
        if logits is not None:
            self._logits[...] = logits.reshape(1, -1)
            self._fresh = True

    def _cut(self, n_past: int) -> None:
        """Note that tokens from n_past on are not what they were."""
        self.epoch += 1
        self._cuts.append(n_past)

    def all_logits(
        self, tokens: Sequence[int], routing: bool = False
    ) -> tuple[np.ndarray, Routing | None]:
        """Append tokens and return the logits after each of them.

        Parameters
        ----------
        tokens : sequence of int
        routing : bool
            Also return which experts ran.

        Returns
        -------
        logits : float32 array of shape (n, n_vocab)
        routing : Routing or None
        """
        ids = self._check(tokens)
        shape = self.engine.shape
        logits = np.empty((len(ids), shape.n_vocab), np.float32)
        collected = None
        if routing:
            collected = Routing(
                np.zeros((shape.n_layer, len(ids), shape.n_expert_used), np.int32),
                np.full((shape.n_layer, len(ids)), np.inf, np.float32),
            )
        try:
            for start in range(0, len(ids), self._chunk):
                stop = min(start + self._chunk, len(ids))
                if collected is not None:
                    self.trunk.layers.probe = Probe(routing_tap(collected, start, stop))
                state = self._advance(ids[start:stop])
                for row in range(0, stop - start, LOGIT_ROWS):
                    part = state[row : row + LOGIT_ROWS]
                    rows = np.asarray(self.trunk.logits(part))
                    logits[start + row : start + row + len(part)] = rows
        finally:
            if collected is not None:
                self.trunk.layers.probe = None
        if len(ids):
            self._logits[...] = logits[-1:]
            self._fresh = True
        return logits, collected

    def save(self) -> Snapshot:
        """Snapshot of the timeline in memory; `logits` must be valid."""
        kv, outputs = self.engine.options.kv, self._outputs.save(self.n_past)
        return snapshot.save(self.cache, self._tokens, self.logits, kv, self._chunk, outputs)

    def restore(self, saved: Snapshot) -> None:
        """Put the timeline back to a snapshot taken from this engine's model.

        Raises
        ------
        SnapshotError
            If it does not fit; the timeline is unchanged.
        """
        tokens, logits = snapshot.load(self.cache, saved, self.engine.options.kv)
        self._tokens = tokens
        self._logits[...] = logits[None]
        self._fresh = True
        self._high = self._floor = len(tokens)
        self._cut(0)
        self._outputs.restore(saved.outputs, len(tokens))

    def save_file(self, path: Path, title: str | None = None, *, new: bool = False) -> None:
        """Write the session to a file; a session that was loaded or saved keeps its identity.

        Parameters
        ----------
        path : Path
        title : str, optional
            For a session saved for the first time; later titles replace the first one's text,
            never its id or creation time.
        new : bool
            A file that lies there already is another program's and stays.

        Raises
        ------
        SnapshotError
            If it cannot be written, or another program has written the file since this session
            read or wrote it; then the session is in a file beside it, which the message names.
        """
        self.place.write(Path(path), self.save(), self.engine.identity, title, new)
