"""Recorded passes as the kernel set keeps them, and for how many positions one holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.ops.cuda.device.context import Recording

NEAREST = 4096  # positions: the first horizon; each further one is four times as far


@dataclass(slots=True)
class RecordedPass:
    """A recorded pass, and the list of what it consists of, which keeps its working memory."""

    program: Any
    log: Recording
    pos0: int  # where it ran last


def horizon_of(end: int) -> int:
    """The first of a few positions that no row of a pass reaches which ends at `end`.

    A pass is recorded once for each, so that what it launches fits the rows that it can see.
    """
    horizon = NEAREST
    while horizon < end:
        horizon *= 4
    return horizon
