"""Simulated sessions of `ab`: how often the whole loop is wrong, and how soon it is right.

    python -m tests.ds4bench.verdicts.sessions --sessions 4000

prints the table that docs/log/2026-12.md quotes. A session is what `AbSession` does behind the
sweeps: pairs come one by one, `Looks` says when to judge and what that look may spend,
`stats.judge` judges both families, `stats.enough` says whether to stop, and `stats.overall` gives
the word.
test_looks.py shows that real sessions over real rows end with the same word after the same pairs.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from ds4bench.ab.looks import Looks
from ds4bench.compare import stats
from ds4bench.compare.stats import CELL_SHARE, CURVE_SHARE, ERROR, Verdict

TOLERANCES = (stats.TOLERANCES["prefill"], stats.TOLERANCES["decode"])
FRONTIERS = 6
LINE = tuple(math.log1p(-t) for t in TOLERANCES)


@dataclass(frozen=True)
class Machine:
    """Noise of one pair's log ratio: `mood` is common to its frontiers, `cell` is each one's own.

    With probability `dip` one frontier of one side is 5 per cent slower for once. `tails`
    draws from Student's t with 4 degrees of freedom instead of a normal law.
    """

    mood: float
    cell: float
    dip: float = 0.0
    tails: bool = False

    def pairs(self, rng: np.random.Generator, n: int, effects: tuple[float, ...]) -> np.ndarray:
        """Log differences of shape (pairs, curves, frontiers)."""
        shape = (n, len(effects), FRONTIERS)
        mood = self._noise(rng, (n, 1, 1), self.mood)
        noise = mood + self._noise(rng, shape, self.cell)
        hit = np.where(rng.random(shape) < self.dip, rng.choice((-0.05, 0.05), shape), 0.0)
        return np.asarray(np.array(effects)[:, None] + noise + hit)

    def _noise(self, rng: np.random.Generator, shape: tuple[int, ...], size: float) -> np.ndarray:
        if self.tails:
            return rng.standard_t(4, shape) / math.sqrt(2) * size
        return rng.normal(0, size, shape)


def judged(pairs: np.ndarray, looks: Looks) -> tuple[Verdict, list[stats.Judgement]]:
    """The word on these pairs, and the curves, if the session looked now."""
    error = max(ERROR * looks.share(len(pairs)), 1e-9)
    curves = stats.judge(
        [stats.paired(c) for c in pairs.mean(axis=2).T], TOLERANCES, error, CURVE_SHARE
    )
    flat = pairs.reshape(len(pairs), -1)
    each = np.repeat(TOLERANCES, pairs.shape[2]).tolist()
    cells = stats.judge([stats.paired(c) for c in flat.T], each, error, CELL_SHARE)
    return stats.overall(curves, cells), curves


def session(pairs: np.ndarray, min_pairs: int = stats.MIN_PAIRS) -> tuple[Verdict, int]:
    """Verdict of a session that may measure all of `pairs`, and how many it took."""
    looks = Looks(min_pairs, len(pairs))
    for n in looks.schedule():
        looks.take(n)
        verdict, curves = judged(pairs[:n], looks)
        if stats.enough(curves, min_pairs=min_pairs, max_pairs=len(pairs)):
            break
    return verdict, n


def rates(
    machine: Machine, effects: tuple[float, ...], sessions: int, seed: int, most: int = 40
) -> tuple[dict[Verdict, float], float]:
    """Share of each verdict, and mean number of pairs, over simulated sessions."""
    rng = np.random.default_rng(seed)
    found = [session(machine.pairs(rng, most, effects)) for _ in range(sessions)]
    words = Counter(verdict for verdict, _ in found)
    shares = {verdict: words[verdict] / sessions for verdict in Verdict}
    return shares, float(np.mean([n for _, n in found]))


CASES = (
    ("every line on its tolerance", LINE, ((0.010, 0.005), (0.015, 0.010), (0.03, 0.03))),
    ("decode on its tolerance", (0.0, LINE[1]), ((0.010, 0.005), (0.03, 0.03))),
    ("A/A", (0.0, 0.0), ((0.005, 0.005), (0.015, 0.010), (0.03, 0.03), (0.05, 0.05))),
    (
        "true -3 % of decode",
        (0.0, math.log(0.97)),
        ((0.005, 0.005), (0.008, 0.008), (0.010, 0.010), (0.015, 0.010)),
    ),
    ("true -5 % of both", (math.log(0.95),) * 2, ((0.010, 0.010), (0.02, 0.02))),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"{options.sessions} sessions a line; 6 to 40 pairs, 2 curves of {FRONTIERS} frontiers")
    head = f"{'truth':28} {'noise: mood, cell':20} {'regressed':>10} {'fine':>8} {'pairs':>6}"
    print(head)
    for name, effects, noises in CASES:
        machines = [Machine(*noise) for noise in noises]
        machines += [Machine(*noises[0], dip=0.08), Machine(*noises[0], tails=True)]
        for machine in machines:
            shares, pairs = rates(machine, effects, options.sessions, options.seed)
            extra = " dips" if machine.dip else " tails" if machine.tails else ""
            noise = f"{100 * machine.mood:.1f} %, {100 * machine.cell:.1f} %{extra}"
            print(
                f"{name:28} {noise:20} {100 * shares[Verdict.REGRESSED]:8.2f} % "
                f"{100 * shares[Verdict.FINE]:6.1f} % {pairs:6.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
