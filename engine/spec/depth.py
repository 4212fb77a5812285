"""How deep to draft: fixed, or the depth whose expected tokens per second are highest.

With a_i the chance that draft i is kept given that those before it were, a step of depth k emits
1 + a_1 + a_1 a_2 + ... tokens and takes draft(k) + verify(k + 1) seconds. Both are averaged over
the steps seen, and depths not tried lately are tried again, since acceptance changes with text.
"""

from __future__ import annotations

from engine.spec.protocol import Drafts

ALPHA = 0.25  # weight of the newest observation
PROBE = 16  # steps after which a depth next to the best one is tried again


class DepthControl:
    """Chooses the number of drafts per step; only the speed depends on it, never the tokens."""

    def __init__(self, most: int, adaptive: bool) -> None:
        self.most = most
        self.adaptive = adaptive and most > 1
        self._keep = [0.5] * most
        self._cost: list[float | None] = [None] * most
        self._age = [0] * most

    def choose(self) -> int:
        """Drafts for the next step."""
        if not self.adaptive:
            return self.most
        for k in range(self.most):
            if self._cost[k] is None:
                return k + 1
        best = max(range(self.most), key=lambda k: self._rate(k + 1))
        for near in (best - 1, best + 1):
            if 0 <= near < self.most and self._age[near] >= PROBE:
                return near + 1
        return best + 1

    def _rate(self, k: int) -> float:
        """Expected tokens per second at depth k."""
        tokens, chance = 1.0, 1.0
        for a in self._keep[:k]:
            chance *= a
            tokens += chance
        cost = self._cost[k - 1]
        assert cost is not None
        return tokens / max(cost, 1e-9)

    def goes_on(self, slot: int, confidence: float) -> bool:
        """Whether to draft on; the depth was chosen before."""
        return True

    def observe_plain(self, seconds: float) -> None:
        """A step that drafted nothing teaches nothing here."""

    def observe(
        self, drafts: Drafts, kept: int, draft_s: float, verify_s: float, rollback_s: float
    ) -> None:
        """Learn from one step."""
        drafted = len(drafts.tokens)
        if not self.adaptive or not drafted:
            return
        for i in range(min(kept + 1, drafted)):
            self._keep[i] += ALPHA * ((i < kept) - self._keep[i])
        self._age = [age + 1 for age in self._age]
        k = drafted - 1
        self._age[k] = 0
        seconds = draft_s + verify_s + rollback_s
        old = self._cost[k]
        self._cost[k] = seconds if old is None else old + ALPHA * (seconds - old)
