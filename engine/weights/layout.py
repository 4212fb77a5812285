"""Expected tensors with their shapes and formats, and the check that reports every mismatch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engine.errors import LayoutError
from engine.gguf.tensor import Tensor
from engine.gguf.values import escape
from engine.quant.formats import KERNELS
from engine.shape import Shape
from engine.weights import names

FLOATS = ("F32", "F16", "BF16")
# Every format that can be decoded; which set multiplies with it is `engine.weights.support`'s.
MATRICES = KERNELS["reference"]
MAX_REPORTED = 5


@dataclass(frozen=True, slots=True)
class Spec:
    """What one tensor must be: row-major shape and permitted formats."""

    name: str
    shape: tuple[int, ...]
    formats: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One tensor that is not what it must be."""

    tensor: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{escape(self.tensor)}: expected {self.expected}, found {self.found}"


def trunk_specs(shape: Shape) -> dict[str, Spec]:
    """Specs of the tensors outside layers, by field of TrunkWeights."""
    s = shape
    return {
        "token_embd": _matrix(names.TRUNK["token_embd"], s.n_vocab, s.n_embd),
        "output": _matrix(names.TRUNK["output"], s.n_vocab, s.n_embd),
        "output_norm": _vector(names.TRUNK["output_norm"], s.n_embd),
        "output_hc_fn": _matrix(names.TRUNK["output_hc_fn"], s.n_hc, s.n_hc * s.n_embd),
        "output_hc_scale": _vector(names.TRUNK["output_hc_scale"], 1),
        "output_hc_base": _vector(names.TRUNK["output_hc_base"], s.n_hc),
    }


def layer_specs(shape: Shape, prefix: str, ratio: int, hashed: bool) -> dict[str, Spec]:
    """Specs of one layer by field of LayerWeights; fields absent by design are not in it.

    Parameters
    ----------
    prefix : str
        'blk.N.' or 'mtp.0.'.
    ratio : {0, 4, 128}
        Compression of this layer.
    hashed : bool
        Whether experts are looked up by token id.
    """
    s = shape
    d, ff, shared = s.n_embd, s.n_ff_exp, s.n_ff_exp * s.n_expert_shared
    specs: dict[str, Spec] = {}

    def matrix(field: str, *dims: int) -> None:
        specs[field] = _matrix(prefix + names.leaf(field), *dims)

    def vector(field: str, n: int) -> None:
        specs[field] = _vector(prefix + names.leaf(field), n)

    for half in ("attn", "ffn"):
        matrix(f"hc_{half}_fn", s.hc_mix, s.n_hc * d)
        vector(f"hc_{half}_scale", 3)
        vector(f"hc_{half}_base", s.hc_mix)
        vector(f"{half}_norm", d)
    matrix("attn_q_a", s.n_lora_q, d)
    vector("attn_q_a_norm", s.n_lora_q)
    matrix("attn_q_b", s.n_head * s.head_dim, s.n_lora_q)
    matrix("attn_kv", s.head_dim, d)
    vector("attn_kv_a_norm", s.head_dim)
    vector("attn_sinks", s.n_head)
    matrix("attn_output_a", s.n_out_group * s.n_lora_o, s.group_dim)
    matrix("attn_output_b", d, s.n_out_group * s.n_lora_o)
    if ratio:
        width = s.comp_width(ratio)
        matrix("attn_compressor_kv", width, d)
        matrix("attn_compressor_gate", width, d)
        matrix("attn_compressor_ape", ratio, width)
        vector("attn_compressor_norm", s.head_dim)
    if ratio == 4:
        width = s.idx_comp_width()
        matrix("indexer_attn_q_b", s.n_idx_head * s.idx_head_dim, s.n_lora_q)
        matrix("indexer_proj", s.n_idx_head, d)
        matrix("indexer_compressor_kv", width, d)
        matrix("indexer_compressor_gate", width, d)
        matrix("indexer_compressor_ape", ratio, width)
        vector("indexer_compressor_norm", s.idx_head_dim)
    matrix("ffn_gate_inp", s.n_expert, d)
    if hashed:
        name = prefix + names.leaf("ffn_gate_tid2eid")
        specs["ffn_gate_tid2eid"] = Spec(name, (s.n_vocab, s.n_expert_used), ("I32",))
    else:
        vector("exp_probs_b", s.n_expert)
    matrix("ffn_gate_exps", s.n_expert, ff, d)
    matrix("ffn_up_exps", s.n_expert, ff, d)
    matrix("ffn_down_exps", s.n_expert, d, ff)
    matrix("ffn_gate_shexp", shared, d)
    matrix("ffn_up_shexp", shared, d)
    matrix("ffn_down_shexp", d, shared)
    return specs


def mtp_specs(shape: Shape, llama: bool) -> dict[str, Spec]:
    """Specs of the MTP block's own tensors by field ('eh_proj' in the llama.cpp layout)."""
    d, n_hc = shape.n_embd, shape.n_hc
    if llama:
        prefix = names.layer_prefix(shape.n_layer)
        table = {field: name.format(prefix) for field, name in names.MTP_LLAMA.items()}
    else:
        table = names.MTP_ANTIREZ
    rules = {
        "e_proj": (d, d),
        "h_proj": (d, d),
        "eh_proj": (d, 2 * d),
        "enorm": (d,),
        "hnorm": (d,),
        "norm": (d,),
        "hc_head_fn": (n_hc, n_hc * d),
        "hc_head_base": (n_hc,),
        "hc_head_scale": (1,),
    }
    return {
        field: (_vector if len(rules[field]) == 1 else _matrix)(name, *rules[field])
        for field, name in table.items()
    }


def mismatches(tensors: Mapping[str, Tensor], specs: Iterable[Spec]) -> list[Mismatch]:
    """Every spec that its tensor does not meet, missing tensors included."""
    found = []
    for spec in specs:
        tensor = tensors.get(spec.name)
        if tensor is None:
            found.append(Mismatch(spec.name, _words(spec), "no such tensor"))
        elif not fits(tensor, spec):
            what = f"{tensor.format.name} {list(tensor.shape)}"
            found.append(Mismatch(spec.name, _words(spec), what))
    return found


def unexpected(tensors: Mapping[str, Tensor], known: Iterable[str]) -> list[Mismatch]:
    """Tensors that no field reads: a file that needs them computes something else."""
    known = set(known)
    ignored = re.compile(
        r"(blk\.\d+|mtp\.0)\.(" + "|".join(map(re.escape, names.IGNORED_LEAVES)) + ")"
    )
    return [
        Mismatch(name, "no such tensor", f"{tensor.format.name} {list(tensor.shape)}")
        for name, tensor in tensors.items()
        if name not in known and not ignored.fullmatch(name)
    ]


def fits(tensor: Tensor, spec: Spec) -> bool:
    """True if format and shape are as specified; leading axes of length 1 may be missing."""
    return tensor.format.name in spec.formats and _core(tensor.shape) == _core(spec.shape)


def raise_for(source: str, found: list[Mismatch]) -> None:
    """Raise one LayoutError, a line, with the first mismatches; `ds4 inspect` lists more.

    Raises
    ------
    LayoutError
        If the list is not empty.
    """
    if not found:
        return
    lines = [str(m) for m in found[:MAX_REPORTED]]
    if len(found) > MAX_REPORTED:
        lines.append(f"... and {len(found) - MAX_REPORTED} more")
    if len(found) == 1:
        raise LayoutError(f"{source}: {lines[0]}")
    raise LayoutError(f"{source}: {len(found)} tensors do not fit: {'; '.join(lines)}")


def _matrix(name: str, *dims: int) -> Spec:
    return Spec(name, dims, MATRICES)


def _vector(name: str, n: int) -> Spec:
    return Spec(name, (n,), FLOATS)


def _core(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without leading ones, which ggml drops when it writes a file."""
    start = 0
    while start < len(shape) - 1 and shape[start] == 1:
        start += 1
    return shape[start:]


def _words(spec: Spec) -> str:
    formats = "a matrix format" if spec.formats is MATRICES else " or ".join(spec.formats)
    return f"{formats} {list(spec.shape)}"
