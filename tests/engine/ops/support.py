"""Inputs for op tests: random arrays, outputs that show what was not written, thread counts."""

from __future__ import annotations

import contextlib

import numpy as np

from engine.ops.cpu.runtime import team


def poisoned(*shape: int) -> np.ndarray:
    """An output full of NaN: an element that an op forgets stays visible."""
    return np.full(shape, np.nan, np.float32)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def angles(rng: np.random.Generator, n: int, n_rot: int) -> tuple[np.ndarray, np.ndarray]:
    angle = rng.uniform(-7, 7, (n, n_rot // 2))
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


@contextlib.contextmanager
def threads(n: int):
    before = team.threads()
    team.set_threads(n)
    try:
        yield
    finally:
        team.set_threads(before)
