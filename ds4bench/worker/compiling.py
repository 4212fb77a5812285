"""Counts kernels that this process compiles or loads, so that no timed window hides one.

Nothing is imported here: numba announces compilation to whoever registers, and it is asked only
where a kernel set has loaded it. The CUDA set's own store counts how often it is asked.
"""

from __future__ import annotations

import sys
from typing import Any

# numba takes this lock for compiling and for loading machine code from its folder.
_EVENT = "numba:compiler_lock"
_BROADCASTERS = ("numba.core.event", "numba.cuda.core.event")
_STORE = "engine.ops.cuda.device.store"


class CompileCounter:
    """How often something was compiled or loaded since kernel sets were first asked for."""

    def __init__(self) -> None:
        self._recorders: dict[str, Any] = {}

    def count(self) -> int:
        """So far; only differences mean anything."""
        heard = 0
        for name in _BROADCASTERS:
            if name not in self._recorders and name in sys.modules:
                broadcaster: Any = sys.modules[name]
                self._recorders[name] = broadcaster.RecordingListener()
                broadcaster.register(_EVENT, self._recorders[name])
            if name in self._recorders:
                heard += sum(event.is_start for _, event in self._recorders[name].buffer)
        store: Any = sys.modules.get(_STORE)
        return heard + (store.n_asked if store is not None else 0)
