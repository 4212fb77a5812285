"""Opens a file on the kernel set that a test names: the CPU's, or the float64 reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from engine import engine as engine_module
from engine.engine import Engine, open_engine
from engine.ops import reference
from engine.options import EngineOptions


@dataclass
class _Weight:
    name: str
    values: np.ndarray
    repacked_bytes: int = 0


class ReferenceSet:
    """The reference ops with what `open_engine` asks a backend for beyond the op vocabulary."""

    def __getattr__(self, name: str) -> Any:
        return getattr(reference, name)

    def set_threads(self, threads: int | None) -> int:
        return 1

    def repack_bytes(self, tensor: Any) -> int:
        return 0

    def facts(self) -> dict[str, Any]:
        return {}

    def prepare(self, tensor: Any, *, activations: str, repack: bool) -> _Weight:
        weight = reference.prepare(tensor, activations=activations, repack=repack)
        return _Weight(weight.name, weight.values)


def opened(path: Path, kernels: str, **options: Any) -> Engine:
    """An engine on `kernels` ('cpu' or 'reference') with two threads."""
    chosen = EngineOptions(path=path, threads=2, **options)
    if kernels == "cpu":
        return open_engine(chosen)
    with mock.patch.object(engine_module, "_load_ops", lambda _name: ReferenceSet()):
        return open_engine(chosen)


def logits_of(engine: Engine, ids: list[int]) -> np.ndarray:
    """Logits at all positions, float32 (n, n_vocab)."""
    return engine.session(len(ids)).all_logits(ids)[0]
