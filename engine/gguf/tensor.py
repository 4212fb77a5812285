"""A named, typed view of one tensor's bytes; the bytes stay in the mapping."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.quant.formats import Format


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a model file.

    Parameters
    ----------
    name : str
    format : Format
    shape : tuple of int
        Row-major, i.e. GGUF's dimensions reversed: (rows, cols) or (n_expert, rows, cols);
        the last axis is the contiguous one, cut into blocks.
    data : uint8 array of shape (n_bytes,)
        Read-only view of the mapping; length is exactly the tensor's bytes.
    """

    name: str
    format: Format
    shape: tuple[int, ...]
    data: np.ndarray

    @property
    def n_bytes(self) -> int:
        return self.data.nbytes
