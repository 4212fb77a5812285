"""Opens a file on the kernel set that a test names: the CPU's, or the float64 reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.engine import Engine, open_engine
from engine.options import EngineOptions


def opened(path: Path, kernels: str, **options: Any) -> Engine:
    """An engine on `kernels` ('cpu' or 'reference') with two threads."""
    return open_engine(EngineOptions(path=path, threads=2, backend=kernels, **options))


def logits_of(engine: Engine, ids: list[int]) -> np.ndarray:
    """Logits at all positions, float32 (n, n_vocab)."""
    return engine.session(len(ids)).all_logits(ids)[0]
