"""The compiled pieces of one storage format, and how they are made from emitted code.

A format's arithmetic is written once as emitters (see `simd.ir`); here they become functions with
an address, one per format and width, so that the loops in `products` can call any of them. Knows
neither blocks nor weights.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.ops.cpu.runtime.leaf import Leaf
from engine.ops.cpu.simd.ir import emitter

WIDTHS = (1, 2, 4, 8)  # rows of x that one call of a dot multiplies


@dataclass(frozen=True, slots=True)
class Leaves:
    """What the drivers know of a format.

    Parameters
    ----------
    panel : int
        Bytes that 16 rows take per block in a panel. Blocks lie one behind the other in one
        stream; a run of them is rounded up to 64 bytes.
    slab : int
        Blocks that one call of a dot covers.
    pack : Leaf
        ``pack(src, stride, n_rows, n_blocks, panel)`` writes a run of blocks of 16 rows.
    decode : Leaf
        ``decode(panel, n_blocks, out)`` writes values as f32, 16 rows interleaved.
    dots : tuple of Leaf
        ``dot(acc, panel, rows, b0, n_blocks)`` per width: adds a run of blocks to outputs.
    emitted : dict
        The emitters behind them by name, for tests of other instruction sets.
    """

    panel: int
    slab: int
    pack: Leaf
    decode: Leaf
    dots: tuple[Leaf, ...]
    emitted: dict[str, Callable] = field(repr=False)


def _dot(acc, panel, xt, b0, nb):
    emitted(acc, panel, xt, b0, nb)  # noqa: F821  the format's, bound by `bound`


def _decode(panel, nb, out):
    emitted(panel, nb, out)  # noqa: F821


def _pack(src, stride, n_rows, nb, panel):
    emitted(src, stride, n_rows, nb, panel)  # noqa: F821


def bound(template, code, name: str) -> Leaf:
    """A leaf of the template's shape that runs `code`, an emitter.

    The compiler's cache on disk tells functions apart by their names, so each gets its own.
    """
    made = types.FunctionType(template.__code__, {"emitted": code}, name)
    made.__qualname__, made.__module__ = name, __name__
    return Leaf(made)


def make(name: str, panel: int, slab: int, dot, decode, pack) -> Leaves:
    """Leaves of a format.

    Parameters
    ----------
    name : str
        GGML name.
    panel, slab : int
        As in `Leaves`.
    dot : callable
        ``dot(n)`` gives the emitting function for n rows of x.
    decode, pack : callable
        Emitting functions.
    """
    emitted = {f"dot{n}": emitter(dot(n)) for n in WIDTHS}
    emitted["decode"] = emitter(decode)
    emitted["pack"] = emitter(pack)
    low = name.lower()
    return Leaves(
        panel,
        slab,
        bound(_pack, emitted["pack"], f"pack_{low}"),
        bound(_decode, emitted["decode"], f"decode_{low}"),
        tuple(bound(_dot, emitted[f"dot{n}"], f"dot{n}_{low}") for n in WIDTHS),
        emitted,
    )
