"""What layers put out for a session's last tokens, as a part of its file: so it drafts at once.

The part stands between the snapshot and the trailer, whose field `outputs` describes it: layers in
ascending order, and of each the float32 values of (rows, n_hc, n_embd), little endian. Files are
untrusted: the description is checked before memory is taken, the values before they are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import FileIO
from typing import Any

import numpy as np

from engine.errors import SnapshotError

# Far above any model's, and far below what overflows.
_MOST = {"rows": 1 << 16, "n_hc": 64, "n_embd": 1 << 20}
_MOST_LAYERS = 4096


@dataclass(frozen=True, slots=True)
class Described:
    """Shape of the part.

    Parameters
    ----------
    layers : tuple of int
        Ascending; none of them twice.
    rows : int
        The last positions before the session's end.
    n_hc, n_embd : int
    """

    layers: tuple[int, ...]
    rows: int
    n_hc: int
    n_embd: int

    @property
    def n_bytes(self) -> int:
        """Bytes in the file."""
        return 4 * len(self.layers) * self.rows * self.n_hc * self.n_embd

    def fields(self) -> dict[str, Any]:
        """As the trailer has it; `described` reads it."""
        return asdict(self)


def describe(outputs: Mapping[int, np.ndarray] | None) -> Described | None:
    """Shape of what a snapshot carries; None where it serves no drafter, who needs a window."""
    if not outputs:
        return None
    layers = tuple(sorted(outputs))
    rows, n_hc, n_embd = outputs[layers[0]].shape
    return Described(layers, rows, n_hc, n_embd) if rows > 1 else None


def described(fields: Any) -> Described:
    """What a trailer says.

    Raises
    ------
    ValueError, KeyError, TypeError
        If it says something else.
    """
    layers = fields["layers"]
    if not isinstance(layers, list) or not all(type(x) is int for x in layers):
        raise TypeError(f"outputs of layers {ascii(layers)[:40]}")
    if (
        layers != sorted(set(layers))
        or not layers
        or not 0 <= layers[0] <= layers[-1] < _MOST_LAYERS
    ):
        raise ValueError(f"outputs of layers {str(layers)[:40]}")
    for name, most in _MOST.items():
        if type(fields[name]) is not int or not 1 <= fields[name] <= most:
            raise ValueError(f"outputs with {name} {ascii(fields[name])[:20]}")
    return Described(tuple(layers), *(fields[name] for name in _MOST))


def parts(outputs: Mapping[int, np.ndarray] | None, shape: Described | None) -> list[memoryview]:
    """The bytes to write, layer by layer."""
    if shape is None or outputs is None:
        return []
    arrays = (np.ascontiguousarray(outputs[layer], "<f4") for layer in shape.layers)
    return [array.reshape(-1).view(np.uint8).data for array in arrays]


def read(file: FileIO, shape: Described | None) -> bytes:
    """The bytes of the part, from where the file stands.

    Raises
    ------
    SnapshotError
        If the file ends before.
    """
    size = 0 if shape is None else shape.n_bytes
    data = bytearray()
    while len(data) < size and (more := file.read(size - len(data))):
        data += more
    if len(data) < size:
        raise SnapshotError(f"session: expected {size} bytes of outputs, found {len(data)}")
    return bytes(data)


def arrays(data: bytes, shape: Described | None) -> dict[int, np.ndarray] | None:
    """By layer, float32 (rows, n_hc, n_embd).

    Raises
    ------
    SnapshotError
        If a value is not finite.
    """
    if shape is None:
        return None
    values = np.frombuffer(data, "<f4").reshape(-1, shape.rows, shape.n_hc, shape.n_embd)
    if not np.isfinite(values).all():
        raise SnapshotError("session: expected finite outputs, found NaN or infinity")
    return dict(zip(shape.layers, values))
