"""The compiled product of one row of activations with 16 rows of a weight in place, per format."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from engine.ops.cpu.one_row import blocks_32, blocks_256, codebooks, nvfp4, planes
from engine.ops.cpu.runtime.leaf import Leaf
from engine.ops.cpu.simd.ir import emitter


@dataclass(frozen=True, slots=True)
class OneRow:
    """What the driver knows of a format.

    Parameters
    ----------
    slab : int
        Blocks that one call covers at most.
    product : Leaf
        ``product(acc, src, stride, n_rows, x, b0, nb, reach)`` adds the products of blocks b0..
        of n_rows rows of the weight, at most 16, with a row of activations at x to acc, 16 f32.
        Lanes of rows that are not there hold anything. While a block is used, the one ``reach``
        bytes behind it is asked for.
    emitted : callable
        The emitter behind it, for tests of other instruction sets.
    """

    slab: int
    product: Leaf
    emitted: Callable = field(repr=False)


# Formats, the maker of their emitters, and blocks that a call covers.
_FAMILIES: tuple[tuple[Mapping, Callable, int], ...] = (
    (blocks_32.FORMS, blocks_32.emit, blocks_32.SLAB),
    (nvfp4.FORMS, nvfp4.emit, nvfp4.SLAB),
    (planes.FORMS, planes.emit, blocks_256.SLAB),
    (codebooks.FORMS, codebooks.emit, blocks_256.SLAB),
)


def _product(acc, src, stride, n_rows, x, b0, nb, reach):
    emitted(acc, src, stride, n_rows, x, b0, nb, reach)  # noqa: F821  the format's


@functools.cache
def one_row(name: str) -> OneRow:
    """The product of a quantised format.

    Raises
    ------
    KeyError
        If this kernel set has none for it.
    """
    for forms, emit, slab in _FAMILIES:
        if name in forms:
            code = emitter(emit(name))
            # The compiler's cache on disk tells functions apart by their names.
            own = f"one_row_{name.lower()}"
            made = types.FunctionType(_product.__code__, {"emitted": code}, own)
            made.__qualname__, made.__module__ = own, __name__
            return OneRow(slab, Leaf(made), code)
    raise KeyError(name)
