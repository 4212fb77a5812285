"""An inference engine for deepseek4 GGUF files: two nouns, engine and session.

Names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "open_engine": "engine.engine",
    "Engine": "engine.engine",
    "MemoryEstimate": "engine.engine",
    "EngineOptions": "engine.options",
    "Session": "engine.session",
    "Routing": "engine.session",
    "Snapshot": "engine.cache.snapshot",
    "Shape": "engine.shape",
    "EngineError": "engine.errors",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
