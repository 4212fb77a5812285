"""DSpark as a drafter: which positions have rows, and the walk through a block's slots.

Let e be the live end: the pending token stands at e, and rows exist for positions below it. A draft
sees the context rows of max(0, e - n_swa) .. e - 1 and the whole block at e .. e + block - 1, whose
rows the next ones overwrite: after a rejection there is nothing to undo. Rows of accepted tokens
come from the trunk's own outputs, which the session keeps by position, and are written when the
next draft needs them; so steps that draft nothing leave no hole.
"""

from __future__ import annotations

from time import perf_counter

from engine.cache.kv import block_rows
from engine.forward.dspark import DsparkPass
from engine.ops.operands import Logits
from engine.session import Session
from engine.spec.protocol import Drafts, Policy, Rule


class DsparkDrafter:
    """Drafts a block behind a session's live end.

    Parameters
    ----------
    session : Session
        Its engine must have a DSpark drafter.
    """

    def __init__(self, session: Session) -> None:
        engine = session.engine
        assert engine.dspark is not None
        self.session = session
        self.spark = engine.dspark.spark
        self.most = self.spark.block
        self._window = engine.shape.n_swa
        official = engine.options.kv == "official"
        cap = block_rows(self._window, self.spark.block)
        self.passes = DsparkPass(session.trunk, engine.dspark, self._window, cap, official)
        self._rings = [session.output_ring(layer) for layer in self.spark.taps]
        self._low = 0  # rows exist from here
        self._end = 0  # up to here
        self._epoch = session.epoch

    def ready(self) -> bool:
        """Write the context rows that are missing; False where the session keeps no outputs."""
        session = self.session
        n_past, known = session.n_past, session.known_from()
        if known >= n_past:
            return False
        end = min(self._end, session.unchanged_since(self._epoch), n_past)
        first = max(end, n_past - self._window, known)
        if first > end or end <= self._low:
            self._low = first
        if first < n_past:
            self.passes.store_context(self._rings, first, n_past - first)
        self._end = n_past
        self._epoch = session.epoch
        return True

    def keep_up(self) -> bool:
        """See `Drafter`; many rows in one pass later cost less than a pass for each."""
        return False

    def propose(self, token: int, pos: int, k: int, policy: Policy, rule: Rule) -> Drafts:
        """See `Drafter`. The block is always run whole: its width is part of what was trained."""
        begin = perf_counter()
        assert pos == self._end, (pos, self._end)
        before = min(self._window, pos - self._low)
        passes, ops = self.passes, self.passes.trunk.ops
        passes.run_block(token, pos, before, k)
        walked = perf_counter()
        found = Drafts(block_s=walked - begin)
        # First maxima need no host: where it would wait for each, all are chosen in one go.
        banned = policy.maxima_without if ops.reads_wait else None
        ahead = None if banned is None else passes.walk(token, k, banned)
        for slot in range(k):
            confidence = passes.follow(slot, token) if ahead is None else ahead.confidences[slot]
            logits = Logits(ops, passes.logits[slot : slot + 1], 0)
            if not rule.goes_on(slot, logits, confidence):
                break
            if ahead is None:
                token, note = policy.propose(logits, pos + slot + 1)
            else:
                token, note = ahead.token(slot), None
            found.tokens.append(token)
            found.notes.append(note)
            found.confidences.append(confidence)
            if token in rule.stop:
                break
        found.head_s = perf_counter() - walked
        return found

    def committed(self, first: int) -> None:
        """Nothing: rows are written from the trunk's outputs when the next draft needs them."""
