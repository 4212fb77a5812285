"""Each step of decoding on a GPU with and without it: seconds in ABBA order, and the same logits.

A step is one of `variant.STEPS`. Both arms are sessions of one engine, so that weights are loaded
once; each arm records its passes under its own switches.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from engine.engine import Engine
from engine.session import Session

TOKENS = 16  # decoded in each of an arm's turns
ROUNDS = 4  # of ABBA
BANNED = np.empty(0, np.int64)


class _Arm:
    """A session whose passes are recorded and replayed under a set of steps."""

    def __init__(self, engine: Engine, steps: frozenset[str], text: list[int]) -> None:
        self._device = engine.ops.ctx.device  # type: ignore[attr-defined]
        self._steps = steps
        self.times: list[float] = []
        self.digest = hashlib.sha256()
        self._use()
        self.session: Session = engine.session(len(text) + 2 * ROUNDS * TOKENS + 16)
        self.session.sync(text)
        self._logits = self.session.last

    def _use(self) -> None:
        self._device.steps = self._steps

    def turn(self) -> None:
        """Decode a few tokens; the first of an arm records, so that it is not counted."""
        self._use()
        for _ in range(TOKENS):
            token = self._logits.choose(BANNED)
            start = perf_counter()
            self._logits = self.session.eval(token)
            self._logits.choose(BANNED)
            self.times.append(perf_counter() - start)
            self.digest.update(np.asarray(self._logits).tobytes())


def compare_variants(
    engine: Engine, n_ctx: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One record per step that the device uses: both arms' seconds, and whether bits are equal.

    Parameters
    ----------
    engine : Engine
        Of the cuda backend.
    n_ctx : int
        Tokens of context before decoding.
    say : callable
    """
    device = engine.ops.ctx.device  # type: ignore[attr-defined]
    every = frozenset(device.steps)
    text = np.random.default_rng(2).integers(0, engine.shape.n_vocab, n_ctx).tolist()
    records = []
    try:
        for name in sorted(every):
            device.steps = every
            arms = _Arm(engine, every, text), _Arm(engine, every - {name}, text)
            for _ in range(ROUNDS):
                for arm in (arms[0], arms[1], arms[1], arms[0]):
                    arm.turn()
            kept = [arm.times[TOKENS:] for arm in arms]
            records.append(
                {
                    "step": name,
                    "n_ctx": n_ctx,
                    "with_s": kept[0],
                    "without_s": kept[1],
                    "same_bits": arms[0].digest.digest() == arms[1].digest.digest(),
                }
            )
            with_s, without_s = map(statistics.median, kept)
            say(f"{name}: {with_s * 1e3:.3f} ms with, {without_s * 1e3:.3f} ms without")
    finally:
        device.steps = every
    return records
