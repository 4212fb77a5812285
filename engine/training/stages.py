"""The recipe over time: which rows are trained on when, and at which rate. All by progress 0 to 1.

Short rows first, since drills need none longer; the indexer learns once attention has settled, and
its choice acts for the last part, as it does ever after.
"""

from __future__ import annotations

from dataclasses import dataclass

WARM_UP_STEPS = 80
_FULL_UNTIL = 0.35  # progress at which the rate begins to fall, linearly
_LAST_RATE = 0.01


@dataclass(frozen=True)
class Stage:
    """A part of the run.

    Parameters
    ----------
    until : float
        Progress at which it ends.
    mix : str
        Name of a `corpus.Mix` stage.
    n_col : int
        Tokens per row.
    index : {0, 1, 2}
        See `Net.geometry`.
    """

    until: float
    mix: str
    n_col: int
    index: int


STAGES = (
    Stage(0.22, "drill", 512, 0),
    Stage(0.48, "exam", 1024, 0),
    Stage(0.56, "exam", 1024, 1),
    Stage(0.70, "long", 4096, 1),
    Stage(0.86, "long", 4096, 2),
    Stage(1.0, "long", 8192, 2),
)


def stage_at(progress: float) -> Stage:
    """The stage that a step at this progress belongs to."""
    return next((s for s in STAGES if progress < s.until), STAGES[-1])


def rate_at(progress: float, step: int) -> float:
    """Learning rate of a step relative to the full one."""
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm * min(1.0, max((1 - progress) / (1 - _FULL_UNTIL), _LAST_RATE))
