"""When `ab` looks at its data, and how much error each look may spend.

Whoever tests after every pair and stops at the first "significant" finds something at last. So
looks are few, and together they may be wrong no more often than one look at the end would be: by
`n` pairs a share of 1 - 4/n of the error is spent, and a look spends what has come since the one
before. The sum bound needs no assumption on how looks depend on each other, and no
end: a session that is stopped early, or resumed with more pairs, keeps the promise.
Nothing here sees a measurement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ds4bench.compare.stats import MIN_VERDICT

_GROWTH = 1.3  # of pairs from look to look


def spent_by(n_pairs: int) -> float:
    """Share of the error that looks at up to `n_pairs` pairs have spent together."""
    return 1 - (MIN_VERDICT - 1) / n_pairs if n_pairs >= MIN_VERDICT else 0.0


@dataclass
class Looks:
    """The looks of one session.

    Attributes
    ----------
    min_pairs, max_pairs : int
        First and last look of the schedule.
    taken : list of int
        Numbers of pairs at which the session was judged.
    """

    min_pairs: int
    max_pairs: int
    taken: list[int] = field(default_factory=list)

    def schedule(self) -> list[int]:
        """Numbers of pairs at which to look."""
        found = [min(max(self.min_pairs, MIN_VERDICT), self.max_pairs)]
        while found[-1] < self.max_pairs:
            found.append(min(max(found[-1] + 1, math.ceil(_GROWTH * found[-1])), self.max_pairs))
        return found

    def due(self, n_pairs: int) -> bool:
        """Whether the schedule asks for a look that was not taken yet."""
        return n_pairs in self.schedule() and n_pairs > max(self.taken, default=0)

    def take(self, n_pairs: int) -> bool:
        """Note a look; False at no more pairs than the last one had."""
        if n_pairs <= max(self.taken, default=0):
            return False
        self.taken.append(n_pairs)
        return True

    def share(self, n_pairs: int) -> float:
        """Share of the error that a look at `n_pairs` pairs may spend: none for a look back."""
        if n_pairs not in self.taken and n_pairs < max(self.taken, default=0):
            return 0.0
        return spent_by(n_pairs) - max((spent_by(n) for n in self.taken if n < n_pairs), default=0)
