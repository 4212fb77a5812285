"""What a step of a speculative mode costs, when it pays, and what other acceptance would give.

Costs are measured: seconds of steps by the tokens that they committed. Rates at another acceptance
are computed from them, and everything that holds one says so; they never become rows.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from ds4bench.records.derived import mode_rank
from ds4bench.records.rows import SpeedRow

PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Measured costs of one mode at one context, over all kinds of text.

    Attributes
    ----------
    mode : str
    ctx_tokens : int
    depth : int
        Most tokens that a step drafted.
    by_tokens : dict of int to float
        Seconds of steps that committed so many tokens.
    step_s, plain_s : float
        Seconds of a step, and of a token in plain mode, on average.
    draft_s, verify_s, rollback_s : float
        Parts of step_s, as far as they were measured; 0 where nobody says.
    """

    mode: str
    ctx_tokens: int
    depth: int
    by_tokens: dict[int, float]
    step_s: float
    plain_s: float
    draft_s: float = 0.0
    verify_s: float = 0.0
    rollback_s: float = 0.0

    @property
    def break_even(self) -> float | None:
        """Fewest tokens per step at which the mode is as fast as plain; None if it never is.

        A step that commits n tokens must cost no more than n of plain's. Between whole numbers,
        which stand for a mixture of steps, costs are linear.
        """
        for low in range(1, self.depth + 1):
            gain, more = (n * self.plain_s - self.cost(n) for n in (low, low + 1))
            if gain >= 0:
                return float(low)
            if more >= 0:
                return low + gain / (gain - more)
        return None

    def cost(self, tokens: float) -> float:
        """Seconds of a step that commits so many tokens, by the nearest that were measured.

        Between two measured numbers the cost is interpolated; beyond them it is that of the last.
        """
        known = sorted(self.by_tokens)
        below = max((n for n in known if n <= tokens), default=known[0])
        above = min((n for n in known if n >= tokens), default=known[-1])
        if below == above:
            return self.by_tokens[below]
        part = (tokens - below) / (above - below)
        return self.by_tokens[below] + part * (self.by_tokens[above] - self.by_tokens[below])


@dataclass(frozen=True, slots=True)
class Computed:
    """A rate that nobody measured: what measured step costs give at an acceptance.

    Attributes
    ----------
    costs : StepCosts
    accept : str
        The acceptance in words.
    tokens_per_step, step_s : float
        Means over steps.
    unseen : tuple of int
        Tokens per step whose cost was not measured and had to be taken from others.
    """

    costs: StepCosts
    accept: str
    tokens_per_step: float
    step_s: float
    unseen: tuple[int, ...] = ()

    @property
    def tps(self) -> float:
        return self.tokens_per_step / self.step_s

    @property
    def speedup(self) -> float:
        """Times plain's measured rate."""
        return self.tps * self.costs.plain_s


def step_costs(rows: Iterable[SpeedRow]) -> list[StepCosts]:
    """Costs of every speculative mode at every context that has plain rows too."""
    plain: dict[int, list[float]] = defaultdict(list)
    drafting: dict[tuple[str, int], list[SpeedRow]] = defaultdict(list)
    for row in rows:
        if not row.ok or not row.gen_s or not row.gen_tokens:
            continue
        if row.mode == PLAIN:
            plain[row.ctx_tokens].append(row.gen_s / row.gen_tokens)
        elif row.drafted and row.steps:
            drafting[row.mode, row.ctx_tokens].append(row)
    found = []
    for (mode, ctx), mine in sorted(
        drafting.items(), key=lambda item: (mode_rank(item[0][0]), item[0])
    ):
        if ctx not in plain:
            continue
        by_tokens = _by_tokens(mine)
        steps = sum(row.steps or 0 for row in mine)
        total = math.fsum(row.gen_s or 0.0 for row in mine)
        parts = [
            math.fsum(getattr(row, name) or 0.0 for row in mine) / steps
            for name in ("draft_s", "verify_s", "rollback_s")
        ]
        depth = max((len(row.drafted_by_depth) for row in mine), default=0) or 1
        mean = total / steps
        costs = by_tokens or {1: mean}
        found.append(StepCosts(mode, ctx, depth, costs, mean, median(plain[ctx]), *parts))
    return found


def _by_tokens(rows: Iterable[SpeedRow]) -> dict[int, float]:
    """Seconds of steps by their tokens; a window's first step is cold, its last may be cut.

    Medians tell the costs apart, and all are scaled to the seconds that the steps took together:
    plain's cost is a mean, which other work makes longer, and would stand beside medians, which it
    does not.
    """
    seconds: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if len(row.step_s) != len(row.step_tokens):
            continue
        for took, tokens in list(zip(row.step_s, row.step_tokens))[1:-1]:
            seconds[tokens].append(took)
    middle = {tokens: median(values) for tokens, values in seconds.items()}
    together = math.fsum(middle[tokens] * len(values) for tokens, values in seconds.items())
    if together <= 0:
        return middle
    scale = math.fsum(took for values in seconds.values() for took in values) / together
    return {tokens: scale * took for tokens, took in middle.items()}


def with_acceptance(costs: StepCosts, shares: Sequence[float]) -> Computed:
    """What a mode would give if its drafts were kept with these probabilities.

    Parameters
    ----------
    shares : sequence of float
        Of each position, the share of drafts that are kept where all in front of them were.
        Positions beyond the mode's depth are not drafted, those beyond the list not kept.
    """
    used = list(shares[: costs.depth])
    weights: dict[int, float] = {}
    reached = 1.0
    for place, share in enumerate(used):
        weights[place + 1] = reached * (1 - share)
        reached *= share
    weights[len(used) + 1] = reached
    text = ", ".join(f"{share:g}" for share in used)
    return _computed(costs, f"p = {text}", weights)


def replayed(costs: StepCosts, accepted: Sequence[int], name: str) -> Computed:
    """What a mode would give on a recorded trace: drafts that each step kept, up to its depth."""
    weights: dict[int, float] = defaultdict(float)
    for kept in accepted:
        weights[min(kept, costs.depth) + 1] += 1 / len(accepted)
    return _computed(costs, f"{name}, {len(accepted)} steps", weights)


def _computed(costs: StepCosts, accept: str, weights: dict[int, float]) -> Computed:
    used = {tokens: weight for tokens, weight in weights.items() if weight > 0}
    unseen = tuple(sorted(tokens for tokens in used if tokens not in costs.by_tokens))
    return Computed(
        costs,
        accept,
        math.fsum(tokens * weight for tokens, weight in used.items()),
        math.fsum(costs.cost(tokens) * weight for tokens, weight in used.items()),
        unseen,
    )
