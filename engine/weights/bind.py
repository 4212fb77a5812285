"""From an open file to the weights' dataclasses: named views, checked against the shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from engine.errors import LayoutError
from engine.gguf.reader import GGUFFile
from engine.gguf.tensor import Tensor
from engine.gguf.values import escape
from engine.shape import Shape
from engine.weights import layout, names
from engine.weights.dspark.layouts import BESIDE_TRUNK, layout_of
from engine.weights.foreign import check_known
from engine.weights.layout import Mismatch, Spec
from engine.weights.metadata import (
    ARCHITECTURE,
    check_mtp_ratio,
    is_mtp_file,
    mtp_swiglu_limits,
    shape_from_metadata,
)
from engine.weights.values import scan_ids, scan_values


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Tensors of one layer; None where the layer has no such part."""

    hc_attn_fn: Tensor
    hc_attn_scale: Tensor
    hc_attn_base: Tensor
    hc_ffn_fn: Tensor
    hc_ffn_scale: Tensor
    hc_ffn_base: Tensor
    attn_norm: Tensor
    attn_q_a: Tensor
    attn_q_a_norm: Tensor
    attn_q_b: Tensor
    attn_kv: Tensor
    attn_kv_a_norm: Tensor
    attn_sinks: Tensor
    attn_output_a: Tensor
    attn_output_b: Tensor
    ffn_norm: Tensor
    ffn_gate_inp: Tensor
    ffn_gate_exps: Tensor
    ffn_up_exps: Tensor
    ffn_down_exps: Tensor
    ffn_gate_shexp: Tensor
    ffn_up_shexp: Tensor
    ffn_down_shexp: Tensor
    # Layers with a compressor.
    attn_compressor_kv: Tensor | None = None
    attn_compressor_gate: Tensor | None = None
    attn_compressor_ape: Tensor | None = None
    attn_compressor_norm: Tensor | None = None
    # Layers of ratio 4.
    indexer_attn_q_b: Tensor | None = None
    indexer_proj: Tensor | None = None
    indexer_compressor_kv: Tensor | None = None
    indexer_compressor_gate: Tensor | None = None
    indexer_compressor_ape: Tensor | None = None
    indexer_compressor_norm: Tensor | None = None
    # One of the two: selection bias, or the experts of every token id.
    exp_probs_b: Tensor | None = None
    ffn_gate_tid2eid: Tensor | None = None


@dataclass(frozen=True, slots=True)
class TrunkWeights:
    """Tensors of a trunk."""

    token_embd: Tensor
    output: Tensor
    output_norm: Tensor
    output_hc_fn: Tensor
    output_hc_scale: Tensor
    output_hc_base: Tensor
    layers: tuple[LayerWeights, ...]


@dataclass(frozen=True, slots=True)
class MtpWeights:
    """Tensors of an MTP block; `token_embd` and `output` are None where the trunk's are used.

    `swiglu_limit` and `swiglu_limit_shared` are the clamps of this block's experts.
    """

    e_proj: Tensor
    h_proj: Tensor
    enorm: Tensor
    hnorm: Tensor
    norm: Tensor
    hc_head_fn: Tensor
    hc_head_base: Tensor
    hc_head_scale: Tensor
    layer: LayerWeights
    token_embd: Tensor | None
    output: Tensor | None
    swiglu_limit: float
    swiglu_limit_shared: float


def iter_tensors(weights: TrunkWeights | MtpWeights | LayerWeights) -> Iterator[Tensor]:
    """Every tensor of a weights record, layers included."""
    for field in dataclasses.fields(weights):
        value = getattr(weights, field.name)
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple):
            for layer in value:
                yield from iter_tensors(layer)
        elif isinstance(value, LayerWeights):
            yield from iter_tensors(value)


def trunk_mismatches(file: GGUFFile, shape: Shape) -> list[Mismatch]:
    """Everything in which a file's tensors differ from what the shape asks for."""
    top, layers = _trunk_specs(shape)
    specs = [*top.values(), *(spec for layer in layers for spec in layer.values())]
    known = {spec.name for spec in specs}
    # A drafter beside the trunk is not the trunk's business.
    block = names.layer_prefix(shape.n_layer)
    known.update(n for n in file.tensors if n.startswith((names.MTP_PREFIX, block)))
    if layout_of(file.tensors) is not None:
        known.update(n for n in file.tensors if BESIDE_TRUNK.fullmatch(n))
    return layout.mismatches(file.tensors, specs) + layout.unexpected(file.tensors, known)


def bind_trunk(file: GGUFFile) -> tuple[Shape, TrunkWeights]:
    """Validate a trunk file and name its tensors.

    Raises
    ------
    LayoutError
        If the file is of another kind, a hyperparameter is wrong, or listing the tensors that are.
    """
    check_known(file)
    if holds_only_dspark(file):
        raise LayoutError(
            f"{_source(file)}: expected a trunk, found a DSpark drafter, which --draft-model takes "
            "beside a trunk"
        )
    if is_mtp_file(file):
        raise LayoutError(f"{_source(file)}: expected a trunk, found an MTP block")
    shape = shape_from_metadata(file)
    layout.raise_for(_source(file), trunk_mismatches(file, shape))
    top, layers = _trunk_specs(shape)
    bound = tuple(LayerWeights(**_bind(file, specs)) for specs in layers)
    _check_hash_tables(file, shape, bound)
    return shape, TrunkWeights(**_bind(file, top), layers=bound)


def bind_mtp(file: GGUFFile, shape: Shape) -> MtpWeights:
    """Validate an MTP block of either layout against the trunk's shape and name its tensors.

    Parameters
    ----------
    file : GGUFFile
        antirez's ``mtp.0.*`` tensors, or llama.cpp's MTP-only file.
    shape : Shape
        Of the trunk that the block drafts for.

    Raises
    ------
    LayoutError
        If the file holds no MTP block, or one of another model.
    """
    check_known(file)
    if holds_only_dspark(file):
        raise LayoutError(
            f"{_source(file)}: expected an MTP block, found a DSpark drafter, which --draft-model "
            "takes"
        )
    if names.MTP_ANTIREZ["e_proj"] in file.tensors:
        return _bind_antirez(file, shape)
    if names.eh_proj_name(shape.n_layer) in file.tensors:
        return _bind_llama(file, shape)
    raise LayoutError(
        f"{_source(file)}: expected an MTP block ({names.MTP_ANTIREZ['e_proj']} or "
        f"{names.eh_proj_name(shape.n_layer)}), found neither tensor"
    )


def check_values(
    source: str, tensors: Iterable[Tensor], progress: Callable[[int], None] | None = None
) -> None:
    """Refuse NaN and infinity in floats and block scales.

    Parameters
    ----------
    source : str
        Name of the file.
    tensors : iterable of Tensor
    progress : callable, optional
        See `scan_values`.

    Raises
    ------
    LayoutError
        Listing the tensors that hold one.
    """
    found = [
        Mismatch(tensor.name, "finite values", message)
        for tensor in tensors
        if (message := scan_values(tensor, progress)) is not None
    ]
    layout.raise_for(source, found)


def holds_only_dspark(file: GGUFFile) -> bool:
    """Whether a file is a DSpark drafter's own; a trunk may carry one as well."""
    kind = layout_of(file.tensors)
    return kind == "C" or (kind is not None and "blk.0.attn_norm.weight" not in file.tensors)


def _source(file: GGUFFile) -> str:
    return escape(file.path.name)


def _trunk_specs(shape: Shape) -> tuple[dict[str, Spec], list[dict[str, Spec]]]:
    layers = [
        layout.layer_specs(
            shape, names.layer_prefix(i), shape.compress_ratio(i), i < shape.n_hash_layer
        )
        for i in range(shape.n_layer)
    ]
    return layout.trunk_specs(shape), layers


def _bind(file: GGUFFile, specs: dict[str, Spec]) -> dict[str, Tensor]:
    """Tensors by field, in the specified shape (a file may have dropped axes of length 1)."""
    return {
        field: dataclasses.replace(file.tensors[spec.name], shape=spec.shape)
        for field, spec in specs.items()
    }


def _check_hash_tables(file: GGUFFile, shape: Shape, layers: Iterable[LayerWeights]) -> None:
    found = []
    for layer in layers:
        table = layer.ffn_gate_tid2eid
        if table is not None and (message := scan_ids(table, shape.n_expert)) is not None:
            expected = f"expert ids from 0 to {shape.n_expert - 1}"
            found.append(Mismatch(table.name, expected, message))
    layout.raise_for(_source(file), found)


def _bind_antirez(file: GGUFFile, shape: Shape) -> MtpWeights:
    key = "general.architecture"
    # Files of this layout call themselves 'deepseek4_mtp_support'.
    if not file.metadata.get_str(key, ARCHITECTURE).startswith(ARCHITECTURE):
        raise file.metadata.error(key, f"{ARCHITECTURE!r} or a name that starts so")
    own = layout.mtp_specs(shape, llama=False)
    block = layout.layer_specs(shape, names.MTP_PREFIX, 0, hashed=False)
    specs = [*own.values(), *block.values()]
    tensors = {n: t for n, t in file.tensors.items() if n.startswith("mtp.")}
    found = layout.mismatches(tensors, specs)
    found += layout.unexpected(tensors, (spec.name for spec in specs))
    layout.raise_for(_source(file), found)
    routed, shared = mtp_swiglu_limits(file, shape)
    return MtpWeights(
        **_bind(file, own),
        layer=LayerWeights(**_bind(file, block)),
        token_embd=None,
        output=None,
        swiglu_limit=routed,
        swiglu_limit_shared=shared,
    )


def _bind_llama(file: GGUFFile, shape: Shape) -> MtpWeights:
    if not is_mtp_file(file):
        raise LayoutError(
            f"{_source(file)}: expected an MTP-only file, found an MTP block beside a trunk, whose "
            "output_hc tensors the block's own would collide with"
        )
    _check_same_model(file, shape, shape_from_metadata(file))
    check_mtp_ratio(file, shape)
    prefix = names.layer_prefix(shape.n_layer)
    own = layout.mtp_specs(shape, llama=True)
    block = layout.layer_specs(shape, prefix, 0, hashed=False)
    trunk = layout.trunk_specs(shape)
    copies = {
        field: trunk[field]
        for field, name in names.MTP_LLAMA_OPTIONAL.items()
        if name in file.tensors
    }
    specs = [*own.values(), *block.values(), *copies.values()]
    known = [*(spec.name for spec in specs), *names.MTP_LLAMA_UNUSED]
    found = layout.mismatches(file.tensors, specs) + layout.unexpected(file.tensors, known)
    layout.raise_for(_source(file), found)
    bound = _bind(file, own)
    e_proj, h_proj = _halves(file, bound.pop("eh_proj"))
    bound_copies = _bind(file, copies)
    routed, shared = mtp_swiglu_limits(file, shape)
    return MtpWeights(
        e_proj=e_proj,
        h_proj=h_proj,
        **bound,
        layer=LayerWeights(**_bind(file, block)),
        token_embd=bound_copies.get("token_embd"),
        output=bound_copies.get("output"),
        swiglu_limit=routed,
        swiglu_limit_shared=shared,
    )


def _check_same_model(file: GGUFFile, trunk: Shape, block: Shape) -> None:
    """Dimensions and constants that the block's computation shares with the trunk's."""
    for field in dataclasses.fields(Shape):
        ours, theirs = getattr(trunk, field.name), getattr(block, field.name)
        if field.compare and field.name != "n_ctx_train" and ours != theirs:
            raise LayoutError(
                f"{_source(file)}: {field.name}: expected {ours} as in the trunk, found {theirs}"
            )


def _halves(file: GGUFFile, eh_proj: Tensor) -> tuple[Tensor, Tensor]:
    """Cut [e_proj | h_proj] rows into two matrices; copies, as the halves interleave by row."""
    rows, cols = eh_proj.shape
    if cols // 2 % eh_proj.format.block_len:
        raise LayoutError(
            f"{_source(file)}: {eh_proj.name}: expected halves of whole "
            f"{eh_proj.format.name} blocks, found {cols // 2} columns each"
        )
    both = eh_proj.data.reshape(rows, 2, -1)
    halves = []
    for i, label in enumerate(("e_proj", "h_proj")):
        data = np.ascontiguousarray(both[:, i]).reshape(-1)
        data.flags.writeable = False
        name = eh_proj.name.replace("eh_proj", label)
        halves.append(Tensor(name, eh_proj.format, (rows, cols // 2), data))
    return halves[0], halves[1]
