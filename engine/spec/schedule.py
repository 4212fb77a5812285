"""How far a drafter with confidences drafts: as long as another draft is worth its verification.

A step with k drafts emits 1 + s_1 + ... + s_k tokens, s_j the product of the calibrated confidences
up to draft j, and takes draft(k) + verify(k + 1) seconds. While a block is walked, draft k + 1 is
made if tokens per second rise by it. Where even that is slower than plain decoding, steps are plain
and drafting is tried again after a while, ever more rarely as long as it loses. Confidences are
calibrated by a temperature a position, fitted to the drafts that were judged. Only the speed
depends on any of this, never the tokens.
"""

from __future__ import annotations

import math

from engine.spec.protocol import Drafts

ALPHA = 0.15  # weight of the newest observation
FORGET = 0.95  # what an older step weighs beside the next newer one, in the lines of cost
LEARN = 0.05  # step of a temperature's fit
SLOPES = 0.25, 4.0  # least and greatest inverse temperature
FIRST_WAIT, LONGEST_WAIT = 16, 512  # plain steps before drafting is tried again
PLAIN_EVERY = 64  # drafting steps after which a plain one is timed
TRIALS = 4  # of each kind of step before anything is judged
_EDGE = 1e-6


class Line:
    """Seconds as a line over a count, from weighted observations that fade."""

    def __init__(self) -> None:
        self._sums = [0.0] * 5  # weight, x, y, xx, xy

    def add(self, x: float, y: float) -> None:
        """One observation."""
        for i, value in enumerate((1.0, x, y, x * x, x * y)):
            self._sums[i] = FORGET * self._sums[i] + value

    def at(self, x: float) -> float:
        """The line's value, never below a part of the mean; flat until two counts were seen."""
        n, sx, sy, sxx, sxy = self._sums
        if not n:
            return 0.0
        mean = sy / n
        spread = sxx - sx * sx / n
        slope = max((sxy - sx * sy / n) / spread, 0.0) if spread > 1e-3 * n else 0.0
        return max(mean + slope * (x - sx / n), mean / 16)


class Schedule:
    """Decides slot by slot; see `DepthControl` for the calls.

    Parameters
    ----------
    most : int
        Drafts of a whole block.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._slopes = [1.0] * most
        self._draft = Line()
        self._verify = Line()
        self._plain: float | None = None
        self._n_plain = 0
        # Of drafting steps: mean tokens and seconds.
        self._tokens = self._seconds = 0.0
        self._n_drafting = 0
        self._wait = FIRST_WAIT
        self._idle = 0  # plain steps left before drafting is tried again
        self._since_plain = 0
        self._survival = 1.0
        self._expected = 1.0

    def choose(self) -> int:
        """Most drafts of the next step; 0: none."""
        if self._n_drafting < TRIALS or self._n_plain < TRIALS:
            # Both kinds of step are timed first, in turn.
            return self.most if self._n_drafting <= self._n_plain else 0
        if self._idle:
            self._idle -= 1
            return 0
        if self._since_plain >= PLAIN_EVERY:
            self._since_plain = 0
            return 0
        return self.most

    def goes_on(self, slot: int, confidence: float) -> bool:
        """Whether a draft of this confidence, judged before it is known, raises the rate."""
        if slot == 0:
            self._survival = self._expected = 1.0
        self._survival *= self._calibrated(slot, confidence)
        if self._n_drafting < TRIALS:
            # Blocks of every length, so that the lines have a slope.
            return slot <= (self._n_drafting * (self.most - 1)) // max(TRIALS - 1, 1)
        more = self._expected + self._survival
        if more * self._cost(slot) <= self._expected * self._cost(slot + 1):
            return False
        self._expected = more
        return True

    def _cost(self, k: int) -> float:
        return self._draft.at(k) + self._verify.at(k + 1)

    def _calibrated(self, slot: int, confidence: float) -> float:
        z = _logit(confidence) * self._slopes[slot]
        return 1 / (1 + math.exp(-z))

    def observe_plain(self, seconds: float) -> None:
        """Learn from a step without drafts."""
        self._n_plain += 1
        old = self._plain
        self._plain = seconds if old is None else old + ALPHA * (seconds - old)
        self._verify.add(1, seconds)

    def observe(
        self, drafts: Drafts, kept: int, draft_s: float, verify_s: float, rollback_s: float
    ) -> None:
        """Learn from a step that drafted, or found nothing worth a draft."""
        k = len(drafts.tokens)
        self._n_drafting += 1
        self._since_plain += 1
        self._draft.add(k, draft_s)
        self._verify.add(k + 1, verify_s + rollback_s)
        # What a block costs, first steps may tell wrongly: means forget them.
        weight = max(ALPHA, 1 / self._n_drafting)
        self._tokens += weight * (kept + 1 - self._tokens)
        self._seconds += weight * (draft_s + verify_s + rollback_s - self._seconds)
        for i, confidence in enumerate(drafts.confidences[: min(kept + 1, k)]):
            z = _logit(confidence)
            slope = self._slopes[i]
            miss = (i < kept) - 1 / (1 + math.exp(-z * slope))
            self._slopes[i] = min(max(slope + LEARN * miss * z, SLOPES[0]), SLOPES[1])
        if self._n_drafting >= TRIALS and self._plain is not None:
            self._judge()

    def _judge(self) -> None:
        """Go on drafting, or pause where plain decoding is faster."""
        assert self._plain is not None
        if self._tokens * self._plain >= self._seconds:
            self._wait = FIRST_WAIT
            return
        self._idle = self._wait
        self._wait = min(2 * self._wait, LONGEST_WAIT)


def _logit(p: float) -> float:
    p = min(max(p, _EDGE), 1 - _EDGE)
    return math.log(p / (1 - p))
