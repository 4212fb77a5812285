"""Rotary angles by position, computed once per block of positions.

Source of the formulas: YaRN (Peng et al., 2023) as configured by `rope.scaling.*`; no magnitude
scaling. A block is always computed whole, so a position's cosine does not depend on the call.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np

from engine.shape import Shape

BLOCK = 1024  # positions
KEEP = 8  # blocks kept per table: a chunk spans few, decode one


def inverse_frequencies(shape: Shape, compressed: bool) -> np.ndarray:
    """Radians per position of each pair, float64 (n_rot // 2,).

    Layers with a compressor use `rope_base_compress` and YaRN: pairs that turn more than
    beta_fast times within the original context keep their frequency, those below beta_slow are
    divided by the factor, linear in between.
    """
    n_rot = shape.n_rot
    base = shape.rope_base_compress if compressed else shape.rope_base
    freq = base ** (-np.arange(0, n_rot, 2, dtype=np.float64) / n_rot)
    if not compressed or shape.yarn_factor == 1:
        return freq

    def dim(beta: float) -> float:
        return n_rot * math.log(shape.yarn_orig_ctx / (beta * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(dim(shape.yarn_beta_fast)), 0)
    high = min(math.ceil(dim(shape.yarn_beta_slow)), n_rot - 1)
    pair = np.arange(n_rot // 2, dtype=np.float64)
    scaled = np.clip((pair - low) / max(high - low, 0.001), 0, 1)
    return freq / shape.yarn_factor * scaled + freq * (1 - scaled)


class RopeTable:
    """Cosines and sines of one kind of layer."""

    def __init__(self, shape: Shape, compressed: bool) -> None:
        self._freq = inverse_frequencies(shape, compressed)
        self._blocks: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def _block(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        block = self._blocks.get(index)
        if block is None:
            pos = np.arange(index * BLOCK, (index + 1) * BLOCK, dtype=np.float64)
            angle = pos[:, None] * self._freq
            block = (np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32))
            self._blocks[index] = block
            if len(self._blocks) > KEEP:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(index)
        return block

    def at(self, pos0: int, n: int, step: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Rows for positions pos0, pos0+step, ...: two float32 arrays (n, n_rot // 2)."""
        first, start = divmod(pos0, BLOCK)
        last = (pos0 + (n - 1) * step) // BLOCK
        if first == last:
            cos, sin = self._block(first)
            stop = start + (n - 1) * step + 1
            if step == 1:
                return cos[start:stop], sin[start:stop]
            return (
                np.ascontiguousarray(cos[start:stop:step]),
                np.ascontiguousarray(sin[start:stop:step]),
            )
        width = self._freq.size
        cos, sin = np.empty((n, width), np.float32), np.empty((n, width), np.float32)
        row = 0
        while row < n:
            index, start = divmod(pos0 + row * step, BLOCK)
            block_cos, block_sin = self._block(index)
            part = block_cos[start::step][: n - row]
            cos[row : row + len(part)] = part
            sin[row : row + len(part)] = block_sin[start::step][: n - row]
            row += len(part)
        return cos, sin
