"""An inference engine for deepseek4 GGUF files: open a model, make a session, generate.

Every name below is loaded when it is first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.cache.snapshot import Snapshot
    from engine.engine import Engine, open_engine
    from engine.errors import EngineError
    from engine.forward.routing import Routing
    from engine.generation import Generation, generate
    from engine.memory import MemoryPlan
    from engine.models.bundled import bundled_model
    from engine.options import EngineOptions
    from engine.sample import Sampler
    from engine.session import Session
    from engine.shape import Shape
    from engine.spec.policy import Greedy, Sampled
    from engine.spec.protocol import StepResult

_HOME = {
    "Engine": "engine.engine",
    "EngineError": "engine.errors",
    "EngineOptions": "engine.options",
    "Generation": "engine.generation",
    "Greedy": "engine.spec.policy",
    "MemoryPlan": "engine.memory",
    "Routing": "engine.forward.routing",
    "Sampled": "engine.spec.policy",
    "Sampler": "engine.sample",
    "Session": "engine.session",
    "Shape": "engine.shape",
    "Snapshot": "engine.cache.snapshot",
    "StepResult": "engine.spec.protocol",
    "bundled_model": "engine.models.bundled",
    "generate": "engine.generation",
    "open_engine": "engine.engine",
}
__all__ = [
    "Engine",
    "EngineError",
    "EngineOptions",
    "Generation",
    "Greedy",
    "MemoryPlan",
    "Routing",
    "Sampled",
    "Sampler",
    "Session",
    "Shape",
    "Snapshot",
    "StepResult",
    "bundled_model",
    "generate",
    "open_engine",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'engine' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
