"""How much memory a model and a session take, worked out before any of it is taken.

One formula for everybody: the engine refuses a context by it, dry runs and `ds4 inspect` show it.
It counts what the kernel set that the options name would allocate, in the memory where that set
allocates: the host's, or a CUDA device's, which are never compared with each other. It knows
nothing of the interpreter, compiled code, or pages of the files that happen to be in memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import psutil

from engine.cache.kv import ROLLBACK, block_rows, raw_rows, ring_rows
from engine.errors import MemoryBudgetError
from engine.forward.model import VECTOR_SUFFIXES
from engine.forward.scratch import scratch_bytes
from engine.ops.memory import (
    F32,
    CpuFootprint,
    Footprint,
    Matrix,
    ReferenceFootprint,
    values_bytes,
)
from engine.options import EngineOptions
from engine.shape import DsparkShape, Shape
from engine.weights.machine import host_warning

if TYPE_CHECKING:
    from engine.weights.files import ModelFiles, ModelWeights
    from engine.weights.tensor import Tensor


class FreeMemory(Protocol):
    """A device, as far as a plan asks it."""

    def free_bytes(self) -> int:
        """Bytes that can be allocated now."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes by purpose.

    Parameters
    ----------
    mapped : int
        The files: address space of the host, paged in as it is read.
    weights : int
        What is held beside the files' pages: repacked matrices, copies on a
        device, and small vectors.
    context : int
        One session's rows of keys and values, when the context is full.
    activations : int
        Arrays of one session's passes, its logits, last states, and tables of angles.
    working : int
        What kernels hold for themselves during the longest pass.
    drafter : int
        Rows and arrays of the draft block, once a session drafts; 0 without a draft block.
    on_device : bool
        Whether all but `mapped` lie in a device's memory.
    """

    mapped: int
    weights: int
    context: int
    activations: int
    working: int
    drafter: int
    on_device: bool = False

    @property
    def session(self) -> int:
        """What one session needs beside the weights."""
        return self.context + self.activations + self.working + self.drafter

    @property
    def resident(self) -> int:
        """What weights and one session add to the mapped files."""
        return self.weights + self.session

    def warning(self, free: int) -> str:
        """Of a model that the host's memory cannot hold; '' where it can, and for a device's.

        Parameters
        ----------
        free : int
            Bytes available on the host before any of this is taken.
        """
        if self.on_device:
            return ""  # the plan of residency, which knows what is pinned, judges these
        return host_warning(self.mapped, self.weights, self.session, free)

    def __str__(self) -> str:
        parts = [
            f"context {self.context / 2**20:.2f} MiB",
            f"activations {self.activations / 2**20:.1f} MiB",
            f"working memory {self.working / 2**20:.1f} MiB",
        ]
        if self.drafter:
            parts.append(f"drafting {self.drafter / 2**20:.1f} MiB")
        parts.append(f"copies of weights {self.weights / 2**20:.1f} MiB")
        where = " on the device" if self.on_device else ""
        return f"{', '.join(parts)}{where}; mapped files {self.mapped / 2**20:.1f} MiB"


@dataclass(frozen=True, slots=True)
class WeightPlan:
    """What is made of the weights: an interleaved copy or none; bytes of copies and of vectors."""

    repack: bool
    copies: int
    vectors: int

    @property
    def n_bytes(self) -> int:
        """All that is held beside the files' pages."""
        return self.copies + self.vectors


def open_device(options: EngineOptions) -> FreeMemory | None:
    """The device that the options name; None for the sets in host memory.

    Raises
    ------
    BackendError
        If there is no such device.
    """
    if options.backend != "cuda":
        return None
    from engine.ops.cuda.device import driver

    return driver.open_device(options)


def free_bytes(device: FreeMemory | None) -> int:
    """Bytes that can be allocated now on a device, or on the host where there is none."""
    return int(psutil.virtual_memory().available if device is None else device.free_bytes())


def matrices(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Those tensors that a kernel set prepares; the others become float32 vectors or ids."""
    return [t for t in tensors if not t.name.endswith(VECTOR_SUFFIXES)]


def plan_weights(
    weights: ModelWeights, options: EngineOptions, device: FreeMemory | None = None
) -> WeightPlan:
    """What opening a model will make of its weights.

    Parameters
    ----------
    weights : ModelWeights
    options : EngineOptions
    device : FreeMemory, optional
        An open device of the CUDA set with nothing of the model on it yet.

    Raises
    ------
    MemoryBudgetError
        If a device cannot hold what must be copied to it.
    """
    tensors = matrices(weights.tensors)
    n_vectors = _vector_bytes(weights, on_device=device is not None)
    if options.backend == "cuda":
        from engine.ops.cuda.memory import planned_weight_bytes

        drafts = {t.name for t in weights.draft_tensors}
        copied = planned_weight_bytes(device, tensors, drafts, options)
        return WeightPlan(False, copied, n_vectors)
    stored = [_stored(t) for t in tensors]
    if options.backend == "reference":
        return WeightPlan(False, ReferenceFootprint().weight_bytes(stored), n_vectors)
    if options.activations != "int8" or options.repack == "off":
        return WeightPlan(False, 0, n_vectors)
    repacked = CpuFootprint().repacked_bytes(stored)
    if _want_repack(options, repacked):
        return WeightPlan(True, repacked, n_vectors)
    return WeightPlan(False, 0, n_vectors)


def _want_repack(options: EngineOptions, need: int) -> bool:
    """Whether to make the interleaved copy; 'auto' makes it within half of the free memory."""
    return options.repack == "on" or need <= free_bytes(None) // 2


def _stored(tensor: Tensor) -> Matrix:
    """A matrix as the file has it."""
    n_expert, rows, cols = (1, *tensor.shape)[-3:]
    return Matrix(tensor.name, tensor.format, n_expert, rows, cols)


def _vector_bytes(weights: ModelWeights, on_device: bool) -> int:
    """Of small tensors as float32, and of tables of ids, which only a device has to copy."""
    total = 0
    for tensor in weights.tensors:
        is_table = tensor.name.endswith("ffn_gate_tid2eid.weight")
        if tensor.name.endswith(VECTOR_SUFFIXES) and (on_device or not is_table):
            total += values_bytes(tensor.shape)
    blocks = [*weights.trunk.layers, *([weights.mtp.layer] if weights.mtp else [])]
    unbiased = sum(x.exp_probs_b is None and x.ffn_gate_tid2eid is None for x in blocks)
    if weights.dspark is not None:
        # The sinks of a stage are held once more, for every row of a block.
        spark = weights.dspark.spark
        total += spark.n_stage * spark.block * weights.shape.n_head * F32
    return total + unbiased * weights.shape.n_expert * F32


def plan_memory(
    files: ModelFiles,
    options: EngineOptions,
    ctx: int,
    *,
    device: FreeMemory | None = None,
    weight_bytes: int | None = None,
) -> MemoryPlan:
    """Memory of a model and one session of `ctx` tokens.

    Parameters
    ----------
    files : ModelFiles
    options : EngineOptions
    ctx : int
        Tokens of context.
    device : FreeMemory, optional
        The open device of the CUDA set (see `open_device`).
    weight_bytes : int, optional
        What the weights' copies take, where the model is open already; planned by default.

    Raises
    ------
    MemoryBudgetError
        If a device cannot hold what must be copied to it.
    """
    weights = files.weights
    if weight_bytes is None:
        weight_bytes = plan_weights(weights, options, device).n_bytes
    foot = _footprint(options.backend)
    shape, official = weights.shape, options.kv == "official"
    chunk = min(options.prefill_chunk, ctx)
    rows = max(chunk, ROLLBACK)
    return MemoryPlan(
        mapped=files.n_bytes,
        weights=weight_bytes,
        context=_context_bytes(foot, shape, ctx, chunk, official),
        activations=_activation_bytes(foot, weights, ctx, rows),
        working=foot.working_bytes(shape, weights.trunk, rows, ctx, official),
        drafter=_drafter_bytes(foot, weights, official),
        on_device=options.backend == "cuda",
    )


def _footprint(backend: str) -> Footprint:
    if backend == "cuda":
        from engine.ops.cuda.memory import CudaFootprint

        return CudaFootprint()
    return ReferenceFootprint() if backend == "reference" else CpuFootprint()


def _context_bytes(foot: Footprint, shape: Shape, ctx: int, chunk: int, official: bool) -> int:
    """Of a `KVCache`: raw rows per layer; compressed rows, rings and indexer rows by ratio."""
    total = len(shape.compress_ratios) * foot.kv_bytes(
        raw_rows(shape, chunk, ctx), shape.head_dim, official
    )
    for ratio in filter(None, shape.compress_ratios):
        cap, ring = ctx // ratio + 1, ring_rows(ratio)
        total += foot.kv_bytes(cap, shape.head_dim, official)
        total += 2 * ring * shape.comp_width(ratio) * F32
        if ratio == 4:
            total += foot.index_bytes(cap, shape.idx_head_dim, official)
            total += 2 * ring * shape.idx_comp_width() * F32
    return total


def _activation_bytes(foot: Footprint, weights: ModelWeights, ctx: int, rows: int) -> int:
    """Of a `Trunk` and a `Session`: activations, angles, outputs, logits of a verification."""
    shape, dspark = weights.shape, weights.dspark
    drafting = weights.mtp is not None or dspark is not None
    states = shape.n_swa + ROLLBACK if drafting else 1
    taps = dspark.spark.taps if dspark is not None else ()
    kept = len({shape.n_layer - 1, *taps})
    return (
        scratch_bytes(shape, rows)
        + 2 * foot.table_bytes(ctx + rows, shape.n_rot)
        + kept * states * shape.n_hc * shape.n_embd * F32
        + (1 + ROLLBACK) * shape.n_vocab * F32
    )


def _drafter_bytes(foot: Footprint, weights: ModelWeights, official: bool) -> int:
    """Of the drafters of a session: each kind that the model has, once."""
    total = 0
    if weights.mtp is not None:
        total += _mtp_bytes(foot, weights.shape, official)
    if weights.dspark is not None:
        total += _dspark_bytes(foot, weights.shape, weights.dspark.spark, official)
    return total


def _mtp_bytes(foot: Footprint, shape: Shape, official: bool) -> int:
    """A window of rows, activations, two copies of states, one row of logits."""
    rows = max(shape.n_swa, ROLLBACK)
    window = -(-(2 * shape.n_swa + ROLLBACK) // 256) * 256
    return (
        foot.kv_bytes(window, shape.head_dim, official)
        + scratch_bytes(shape, rows)
        + 2 * rows * shape.n_hc * shape.n_embd * F32
        + shape.n_vocab * F32
    )


def _dspark_bytes(foot: Footprint, shape: Shape, spark: DsparkShape, official: bool) -> int:
    """Rows of each stage and activations; of a block Markov rows, ids, a report, logits twice."""
    return (
        spark.n_stage
        * foot.kv_bytes(block_rows(shape.n_swa, spark.block), shape.head_dim, official)
        + scratch_bytes(shape, max(shape.n_swa, spark.block))
        + spark.block * (spark.rank + 4 + 2 * shape.n_vocab) * F32
        + F32
    )


def check_memory(need: int, free: int, ctx: int) -> None:
    """Refuse a context for which there is too little memory.

    Parameters
    ----------
    need, free : int
        Bytes of the same memory: the host's, or a device's.

    Raises
    ------
    MemoryBudgetError
    """
    if need > free:
        raise MemoryBudgetError(
            f"context: expected at most {free >> 20} MiB of free memory to be needed, "
            f"found {need >> 20} MiB for {ctx} tokens"
        )
