"""Which kernel set can run a model: formats of matrices and sizes, from headers alone.

A set that lacks a kernel refuses the model here, by name and before anything is loaded. Knows the
limits of the sets as numbers (tests compare them with the kernels' own), and no kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.errors import LayoutError
from engine.quant.formats import KERNELS
from engine.shape import Shape
from engine.weights.tensor import Tensor

# Small matrices that every set decodes to float32 when a model is opened.
_DECODED = "_ape.weight"
_FP8_BLOCK = 64  # dims that share one scale in official KV rows


@dataclass(frozen=True, slots=True)
class _Limits:
    """Largest sizes that a kernel set is written for; None where it has no limit."""

    n_expert: int | None = None
    n_expert_used: int | None = None
    n_hc: int | None = None
    head_dim: int | None = None
    idx_top_k: int | None = None


_KEYS = {
    "n_expert": "expert_count",
    "n_expert_used": "expert_used_count",
    "n_hc": "hyper_connection.count",
    "head_dim": "attention.key_length",
    "idx_top_k": "attention.indexer.top_k",
}
LIMITS = {
    "cpu": _Limits(n_hc=8),
    "cuda": _Limits(n_expert=256, n_expert_used=8, n_hc=4, head_dim=512, idx_top_k=0x7FFE),
    "reference": _Limits(),
}
TILE_ROWS, TILE_COLS = 16, 32  # of the CUDA set's products
CUDA_INDEX_DIMS = (64, 128, 256)  # of official indexer rows


def unsupported(
    shape: Shape, tensors: Iterable[Tensor], backend: str, kv: str = "official"
) -> list[str]:
    """Why a kernel set cannot run a model; empty where it can.

    Parameters
    ----------
    shape : Shape
    tensors : iterable of Tensor
        Of the trunk, and of a draft block where one is used.
    backend : {'cpu', 'cuda', 'reference'}
    kv : {'official', 'f32'}
        How rows of keys and values are stored.

    Returns
    -------
    list of str
        ``subject: expected X, found Y``, one reason each.
    """
    tensors = list(tensors)
    found = [*_sizes(shape, backend, kv), *_formats(tensors, backend)]
    if backend == "cuda":
        found += [*_tiles(shape, tensors), *_unequal_pairs(tensors)]
    return found


def check_supported(
    source: str, shape: Shape, tensors: Iterable[Tensor], backend: str, kv: str = "official"
) -> None:
    """Refuse a model that a kernel set cannot run; parameters as `unsupported`.

    Raises
    ------
    LayoutError
        In one line: the file, the backend and every reason.
    """
    found = unsupported(shape, tensors, backend, kv)
    if found:
        raise LayoutError(f"{source}: {'; '.join(found)}")


def _sizes(shape: Shape, backend: str, kv: str) -> list[str]:
    found = []
    limits = LIMITS[backend]
    for field, key in _KEYS.items():
        most, value = getattr(limits, field), getattr(shape, field)
        if most is not None and value > most:
            found.append(f"{key}: expected at most {most} with --backend {backend}, found {value}")
    if shape.head_dim % 16:
        found.append(f"attention.key_length: expected a multiple of 16, found {shape.head_dim}")
    if kv == "official":
        if shape.n_nope % _FP8_BLOCK:
            found.append(
                f"attention.key_length: expected a multiple of {_FP8_BLOCK} beside the rotated "
                f"dims for --kv official (FP8 blocks), found {shape.n_nope}; --kv f32 takes it"
            )
        dim = shape.idx_head_dim
        if backend == "cuda" and 4 in shape.compress_ratios and dim not in CUDA_INDEX_DIMS:
            sizes = ", ".join(map(str, CUDA_INDEX_DIMS))
            found.append(
                f"attention.indexer.key_length: expected one of {sizes} with --backend cuda "
                f"and --kv official, found {dim}"
            )
    return found


def _formats(tensors: list[Tensor], backend: str) -> list[str]:
    """The formats without a kernel, with how many matrices have each, and the first by name."""
    known = KERNELS[backend]
    by_format: dict[str, list[str]] = {}
    for tensor in tensors:
        name = tensor.format.name
        if name not in known and name != "I32" and not tensor.name.endswith(_DECODED):
            by_format.setdefault(name, []).append(tensor.name)
    if not by_format:
        return []
    found = [
        f"{name} ({t[0]})" if len(t) == 1 else f"{name} ({len(t)} tensors, {t[0]} first)"
        for name, t in by_format.items()
    ]
    return [
        f"matrices: expected formats with a kernel for --backend {backend} ({', '.join(known)}), "
        f"found {', '.join(found)}"
    ]


def _tiles(shape: Shape, tensors: list[Tensor]) -> list[str]:
    """Sizes that the CUDA set's tiles of 16 rows and 32 columns do not divide."""
    found = []
    rank = shape.n_lora_o
    if shape.n_out_group > 1 and rank % TILE_ROWS:
        found.append(
            f"attention.output_lora_rank: expected a multiple of {TILE_ROWS} with --backend cuda, "
            f"found {rank}"
        )
    for tensor in tensors:
        matrix = len(tensor.shape) > 1 and tensor.format.name in ("F16", "BF16")
        if matrix and not tensor.name.endswith(_DECODED) and tensor.shape[-1] % TILE_COLS:
            found.append(
                f"{tensor.name}: expected rows of a multiple of {TILE_COLS} values with "
                f"--backend cuda, found {tensor.shape[-1]}"
            )
            break
    return found


def _unequal_pairs(tensors: list[Tensor]) -> list[str]:
    """Layers whose gate and up experts differ in format: CUDA computes both in one kernel."""
    formats = {t.name: t.format.name for t in tensors if "_exps." in t.name}
    for name, gate in formats.items():
        up = formats.get(name.replace("ffn_gate_exps", "ffn_up_exps"), gate)
        if up != gate:
            return [
                f"{name}: expected the format of ffn_up_exps with --backend cuda ({up}), "
                f"found {gate}"
            ]
    return []
