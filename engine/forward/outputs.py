"""What layers put out for the last tokens, kept by position for drafters that read it.

An MTP block reads the final states, a DSpark drafter the outputs of the layers that it taps. This
module knows positions and rings; which tokens stand there is the session's matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from engine.forward.trunk import Trunk
from engine.ops.operands import Array


class Outputs:
    """Rings of the outputs of some layers, written inside the trunk's passes.

    Parameters
    ----------
    trunk : Trunk
        One that has evaluated nothing yet.
    layers : iterable of int
    rows : int
        Positions that are kept.
    """

    def __init__(self, trunk: Trunk, layers: Iterable[int], rows: int) -> None:
        self.rows = rows
        self._ops = trunk.ops
        shape = trunk.shape
        self._rings: dict[int, Array] = {}
        for layer in sorted(set(layers)):
            ring = trunk.ops.new_array((rows, shape.n_hc, shape.n_embd))
            trunk.keep_outputs(layer, ring)
            self._rings[layer] = ring
        self._from = 0  # first position whose outputs are known

    def first(self, n_past: int) -> int:
        """First position whose outputs are known and kept; n_past where none is."""
        return max(self._from, n_past - self.rows)

    def get(self, layer: int, first: int, n: int) -> Array:
        """Outputs of n positions from `first` on, float32 (n, n_hc, n_embd); may be a view."""
        assert first >= self._from, (first, self._from)
        return self._ops.ring_get(self._rings[layer], first, n)

    def ring(self, layer: int) -> Array:
        """All that is kept of a layer, (rows, n_hc, n_embd) by position."""
        return self._rings[layer]

    def at(self, layer: int, position: int) -> Array:
        """One position's output, (n_hc, n_embd): a view that a later pass overwrites."""
        assert position >= self._from, (position, self._from)
        return self._rings[layer][position % self.rows]

    def extended(self, n_past: int) -> None:
        """Passes have written rows up to n_past."""
        self._from = max(self._from, n_past - self.rows)

    def cut(self, n_past: int) -> None:
        """Positions from n_past on are rewritten before they are read."""
        self._from = min(self._from, n_past)

    def save(self, n_past: int) -> dict[int, np.ndarray]:
        """What is known, on the host by layer."""
        first = self.first(n_past)
        return {
            layer: np.array(self.get(layer, first, n_past - first), np.float32)
            for layer in self._rings
        }

    def restore(self, saved: Mapping[int, np.ndarray] | None, n_past: int) -> None:
        """Take back what `save` gave at n_past; nothing is known where a layer is missing."""
        self._from = n_past
        if saved is None or not saved.keys() >= self._rings.keys():
            return
        kept = min(self.rows, *(len(saved[layer]) for layer in self._rings))
        self._from -= kept
        for layer, ring in self._rings.items():
            self._ops.ring_set(ring, self._from, saved[layer][len(saved[layer]) - kept :])
