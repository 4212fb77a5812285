"""Prepared weights: a file tensor, in place or repacked, with the leaves that multiply it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np

from engine.ops.cpu import products
from engine.ops.cpu.activations import ROWS_32, ROWS_256, ROWS_F32
from engine.ops.cpu.formats import blocks_32, dot_f32, nvfp4, planes, tables
from engine.ops.cpu.formats.leaves import Leaves
from engine.ops.cpu.formats.repack import repack as repack_panels
from engine.ops.cpu.one_row.driver import rows_one
from engine.ops.cpu.one_row.leaves import one_row
from engine.ops.cpu.runtime.leaf import Leaf
from engine.ops.cpu.simd.ir import LANES
from engine.quant.formats import Format
from engine.weights.tensor import Tensor

_FLOATS = {
    # bytes of a value in a panel, pack, decode
    "F32": (4, dot_f32.pack_f32, None),
    "F16": (2, dot_f32.pack_16bit, dot_f32.decode_f16),
    "BF16": (2, dot_f32.pack_16bit, dot_f32.decode_bf16),
}


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """What `matmul`, `matmul_grouped`, `routed_moe` and `embed_hc` multiply with.

    Parameters
    ----------
    name : str
        The tensor's.
    format : str
        GGML name of the stored format.
    rows, cols : int
        Outputs and inputs (of one expert).
    n_expert : int
        1 for a plain matrix.
    repacked_bytes : int
        Bytes of the repacked copy; 0 where the weight is used in the mapping.
    address : int
        Of the int64 fields that kernels read.
    quantisers : int
        Address of the table of activation leaves.
    """

    name: str
    format: str
    rows: int
    cols: int
    n_expert: int
    repacked_bytes: int
    address: int
    quantisers: int
    _fields: np.ndarray = field(repr=False)
    _data: np.ndarray = field(repr=False)
    _decode: Leaf | None = field(repr=False)

    def decoding(self) -> int:
        """`address`, after making sure that the weight's rows can be decoded to f32."""
        at = products.D_DECODE // 8
        if self._decode is not None and not self._fields[at]:
            self._fields[at] = self._decode.address
        return self.address


@dataclass(frozen=True, slots=True)
class _Layout:
    """Bytes that 16 rows take per block of a panel, and the leaves of a product."""

    panel: int
    slab: int
    kind: int
    pack: Leaf
    decode: Leaf | None
    dots: tuple[Leaf, ...]

    def panel_bytes(self, blocks: int) -> int:
        return -(-blocks * self.panel // 64) * 64


@functools.cache
def leaves(name: str) -> Leaves:
    """Leaves of a quantised format.

    Raises
    ------
    KeyError
        If this kernel set has none for it.
    """
    for family in (blocks_32, nvfp4, planes, tables):
        if name in family.FORMS:
            return family.leaves(name)
    raise KeyError(name)


def _layout(tensor: Tensor, activations: str) -> _Layout:
    name = tensor.format.name
    float_dots: tuple[Leaf, ...] = (dot_f32.dot1, dot_f32.dot2, dot_f32.dot4, dot_f32.dot8)
    if name in _FLOATS:
        size, pack, decode = _FLOATS[name]
        return _Layout(size * LANES, dot_f32.SLAB, ROWS_F32, pack, decode, float_dots)
    made = leaves(name)
    if activations == "f32":
        slab, kind, dots = dot_f32.SLAB // tensor.format.block_len, ROWS_F32, float_dots
    else:
        kind = ROWS_256 if tensor.format.block_len == 256 else ROWS_32
        slab, dots = made.slab, made.dots
    return _Layout(made.panel, slab, kind, made.pack, made.decode, dots)


def _check_slab(form: Format, layout: _Layout) -> None:
    """A slab that is made on the stack, in the format's panel or decoded, fits there."""
    is_float = layout.kind == ROWS_F32
    room = products.SPACE_F32 if is_float else products.SPACE_INT8
    needed = layout.panel_bytes(layout.slab)
    assert needed <= room, f"{form.name}: expected a slab of at most {room} bytes, found {needed}"
    assert 4 * LANES * dot_f32.SLAB <= products.SPACE_F32, dot_f32.SLAB
    embedded = layout.panel_bytes(dot_f32.SLAB // form.block_len)
    assert embedded <= products.SPACE_F32, (form.name, embedded)


def _dimensions(tensor: Tensor) -> tuple[int, int, int, int, int]:
    """Experts, rows, columns, blocks of a row, groups of 16 rows of an expert."""
    n_expert, rows, cols = (1, *tensor.shape)[-3:]
    return n_expert, rows, cols, cols // tensor.format.block_len, -(-rows // LANES)


def repack_bytes(tensor: Tensor) -> int:
    """Bytes that `prepare` with repack takes for its copy, alignment aside."""
    n_expert, _, _, blocks, groups = _dimensions(tensor)
    return n_expert * groups * _layout(tensor, "int8").panel_bytes(blocks)


def prepare(tensor: Tensor, *, activations: str = "int8", repack: bool = False) -> Weight:
    """Make a tensor ready for the kernels.

    Parameters
    ----------
    tensor : Tensor
        Native format; shape (rows, cols) or (n_expert, rows, cols), cols a multiple of the block.
    activations : {'int8', 'f32'}
        Arithmetic of products with quantised weights; the float formats always take f32.
    repack : bool
        Copy the weight to interleaved panels; otherwise it is read in place, and stays referenced.
        No result depends on it.
    """
    assert activations in ("int8", "f32"), tensor
    n_expert, rows, cols, blocks, groups = _dimensions(tensor)
    layout = _layout(tensor, activations)
    row_bytes = tensor.format.row_bytes(cols)
    assert tensor.n_bytes == n_expert * rows * row_bytes, tensor
    is_float = layout.kind == ROWS_F32
    _check_slab(tensor.format, layout)
    rows_fn = products.rows_f32 if is_float else products.rows_int8
    panel = layout.panel_bytes(blocks)
    fields = np.zeros(products.N_FIELDS, np.int64)

    def put(offset: int, value: int) -> None:
        fields[offset // 8] = value

    put(products.D_ROWS_FN, rows_fn.address)
    put(products.D_ONE_FN, rows_fn.address)
    put(products.D_DATA, tensor.data.ctypes.data)
    put(products.D_ROWS, rows)
    put(products.D_COLS, cols)
    put(products.D_BLOCKS, blocks)
    put(products.D_ROW_BYTES, row_bytes)
    put(products.D_BLOCK_BYTES, tensor.format.block_bytes)
    put(products.D_EXPERT_BYTES, rows * row_bytes)
    put(products.D_PANEL_BYTES, panel)
    put(products.D_PANEL_BLOCK, layout.panel)
    put(products.D_PACK, layout.pack.address)
    put(products.D_DECODE, layout.decode.address if is_float and layout.decode else 0)
    places = (products.D_DOT1, products.D_DOT2, products.D_DOT4, products.D_DOT8)
    for offset, dot in zip(places, layout.dots, strict=True):
        put(offset, dot.address)
    put(products.D_SLAB, layout.slab)
    put(products.D_KIND, layout.kind)
    put(products.D_N_EXPERT, n_expert)
    data, copied = tensor.data, 0
    if repack:
        copied = n_expert * groups * panel
        data = np.empty(copied + 64, np.uint8)
        base = (data.ctypes.data + 63) & ~63
        repack_panels(fields, base, n_expert * groups)
        put(products.D_DATA, base)
        put(products.D_PACKED, 1)
        put(products.D_EXPERT_BYTES, groups * panel)
    elif not is_float:
        alone = one_row(tensor.format.name)
        put(products.D_ONE_FN, rows_one.address)
        put(products.D_ONE, alone.product.address)
        put(products.D_ONE_SLAB, alone.slab)
    return Weight(
        tensor.name,
        tensor.format.name,
        rows,
        cols,
        n_expert,
        copied,
        fields.ctypes.data,
        products.quantisers(),
        fields,
        data,
        layout.decode,
    )
