"""Tensors as streams of bytes in their final format, so that a large model never is in memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from engine.errors import LayoutError
from engine.models.make import Spec, chunks, stream
from engine.quant.formats import BY_NAME, Format
from engine.quant.registry import quantize

# Quantised values that a quick tensor repeats, and the size from which a tensor is quick.
QUICK_VALUES = 1 << 20
# Expert tensors above this size are assembled from a pool of quantised rows (see `_Pool`).
POOL_VALUES = 1 << 24
_N_VARIANTS = 4
_UNIT = 256  # columns that move together; a multiple of every block length


def spec_bytes(spec: Spec, fmt: Format) -> int:
    """Bytes of a whole tensor in a format."""
    return math.prod(spec.shape[:-1]) * fmt.row_bytes(spec.shape[-1])


def encoded_values(spec: Spec, fmt: Format, values: np.ndarray) -> Iterator[np.ndarray]:
    """Given values of a tensor as bytes in order, as uint8 arrays.

    Raises
    ------
    LayoutError
        If the values have another shape than the spec.
    """
    if values.shape != spec.shape:
        raise LayoutError(f"{spec.name}: expected shape {spec.shape}, found {values.shape}")
    yield _encode(values, fmt)


def _encode(values: np.ndarray, fmt: Format) -> np.ndarray:
    """Bytes of values whose rows lie along the last axis, uint8 (n_bytes,)."""
    if fmt.name == "I32":
        return np.ascontiguousarray(values, "<i4").reshape(-1).view(np.uint8)
    rows = np.ascontiguousarray(values, np.float32).reshape(-1, values.shape[-1])
    return quantize(rows, fmt).reshape(-1).view(np.uint8)


def encoded(spec: Spec, fmt: Format, seed: int, quick: bool = False) -> Iterator[np.ndarray]:
    """A tensor's bytes in order, as uint8 arrays.

    With `quick`, large tensors repeat a megabyte or so of quantised values from another place each
    time: right for measuring speed, since every block is valid and no two rows lie alike in
    memory, and made as fast as memory is written.
    """
    if quick and spec.rule in ("normal", "experts") and math.prod(spec.shape) > QUICK_VALUES:
        yield from _quick(spec, fmt, seed)
    elif spec.rule == "experts" and math.prod(spec.shape) >= POOL_VALUES:
        yield from _pooled(spec, fmt, seed)
    else:
        # Drawing is sequential, quantising is not: a second thread takes it where there is one.
        pending: deque = deque()
        with ThreadPoolExecutor(2) as pool:
            for piece in chunks(spec, seed):
                pending.append(pool.submit(_encode, piece, fmt))
                if len(pending) > 2:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()


@lru_cache(maxsize=32)
def _quick_rows(cols: int, std: float, fmt_name: str, seed: int) -> np.ndarray:
    """Quantised rows, uint8 (n_row, bytes of a row)."""
    fmt = BY_NAME[fmt_name]
    spec = Spec("quick", (max(QUICK_VALUES // cols, 2), cols), "dense", std)
    pieces = [quantize(piece, fmt).reshape(-1) for piece in chunks(spec, seed)]
    return np.concatenate(pieces).reshape(-1, fmt.row_bytes(cols))


def _quick(spec: Spec, fmt: Format, seed: int) -> Iterator[np.ndarray]:
    cols = spec.shape[-1]
    rows = _quick_rows(cols, spec.std, fmt.name, seed)
    rng = stream(seed, spec.name)
    left = math.prod(spec.shape[:-1])
    while left:
        start = int(rng.integers(0, len(rows)))
        piece = rows[start : start + left]
        left -= len(piece)
        yield piece.reshape(-1)


@lru_cache(maxsize=4)
def _pool(rows: int, cols: int, std: float, fmt_name: str, seed: int) -> np.ndarray:
    """Properly quantised matrices that share half of their variance.

    Returns
    -------
    uint8 array of shape (n_variant, rows, cols / 256, bytes of 256 columns)
    """
    fmt = BY_NAME[fmt_name]
    spec = Spec("pool", (_N_VARIANTS, rows, cols), "expert_in", std, rule="experts")
    step = max(1, (1 << 18) // cols)
    out = np.empty((_N_VARIANTS, rows, fmt.row_bytes(cols)), np.uint8)
    with ThreadPoolExecutor() as pool:
        for v, matrix in enumerate(chunks(spec, seed)):
            starts = range(0, rows, step)
            pieces = pool.map(lambda s, m=matrix: quantize(m[s : s + step], fmt), starts)
            for s, piece in zip(starts, pieces):
                out[v, s : s + step] = piece.reshape(-1, fmt.row_bytes(cols))
    return out.reshape(_N_VARIANTS, rows, cols // _UNIT, fmt.row_bytes(_UNIT))


def _pooled(spec: Spec, fmt: Format, seed: int) -> Iterator[np.ndarray]:
    """Experts whose rows are picked among the variants of one pool.

    Row j of every expert is some variant of the same row, so experts share a common part as fully
    drawn ones do; each tensor has its own order of rows and of 256-column units.
    """
    n_expert, rows, cols = spec.shape
    pool = _pool(rows, cols, spec.std, fmt.name, seed)
    rng = stream(seed, spec.name)
    order = rng.permutation(rows)[:, None]
    units = rng.permutation(cols // _UNIT)[None, :]
    for _ in range(n_expert):
        variant = rng.integers(0, _N_VARIANTS, (rows, 1))
        yield pool[variant, order, units].reshape(-1)
