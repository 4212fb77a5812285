"""Opening a model: file, layout check, weights in the kernel set's form, sessions."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psutil

from engine.cache import kv, session_file
from engine.errors import ContextError, LayoutError, MemoryBudgetError
from engine.forward.model import VECTOR_SUFFIXES, Model, MtpModel, Preparer
from engine.forward.scratch import scratch_bytes
from engine.options import MODES, EngineOptions
from engine.session import Session
from engine.shape import Shape

if TYPE_CHECKING:
    from engine.gguf.reader import GGUFFile
    from engine.text.tokenizer import Tokenizer
    from engine.weights.tensor import Tensor

# Interpreter, numba's compiler and libraries; measured, see docs/log/2026-11.md.
RUNTIME_BYTES = 250 << 20


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes by purpose, computed before anything large is allocated."""

    mapped: int  # the files, paged in as they are read
    repacked: int
    context: int  # rows of one session, full
    scratch: int  # activations of one session

    def __str__(self) -> str:
        parts = [f"context {self.context / 2**20:.2f} MiB", f"activations {self.scratch >> 20} MiB"]
        if self.repacked:
            parts.append(f"repacked weights {self.repacked >> 20} MiB")
        return f"{', '.join(parts)}; mapped files {self.mapped >> 20} MiB"

    @property
    def resident(self) -> int:
        """What this process adds to the mapped files."""
        return self.repacked + self.context + self.scratch


class Engine:
    """A model ready to run; made by `open_engine`, closed by `close` or as a context manager."""

    def __init__(
        self,
        options: EngineOptions,
        file: GGUFFile,
        mtp_file: GGUFFile | None,
        shape: Shape,
        ops: Any,
    ) -> None:
        self.options = options
        self.shape = shape
        self.ops = ops
        self.notices: list[str] = []
        self.threads = 0
        self.model: Model
        self.mtp: MtpModel | None = None
        self.repacked_bytes = 0
        self._file = file
        self._mtp_file = mtp_file

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the mappings; sessions must not be used afterwards."""
        self.ops.close()
        self._file.close()
        if self._mtp_file is not None:
            self._mtp_file.close()

    @property
    def identity(self) -> Any:
        """`FileIdentity` of the trunk file."""
        return self._file.identity

    @property
    def file(self) -> GGUFFile:
        """The trunk file: metadata and tensor table."""
        return self._file

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The file's tokenizer, built at first use."""
        from engine.text.tokenizer import Tokenizer

        return Tokenizer.from_metadata(self._file.metadata)

    def modes(self) -> tuple[str, ...]:
        """Decode modes that this engine can run with the files it has."""
        return MODES if self.mtp is not None else MODES[:1]

    def memory_estimate(self, ctx: int) -> MemoryEstimate:
        """Bytes that a session of `ctx` tokens needs."""
        options, shape = self.options, self.shape
        chunk = min(options.prefill_chunk, ctx)
        files = [self._file] + ([self._mtp_file] if self._mtp_file else [])
        return MemoryEstimate(
            mapped=sum(f.identity.size for f in files),
            repacked=self.repacked_bytes,
            context=kv.context_bytes(shape, ctx, chunk, options.kv == "official"),
            scratch=scratch_bytes(shape, max(chunk, kv.ROLLBACK))
            + 8 * shape.n_vocab
            + self._kernel_bytes(chunk),
        )

    def _kernel_bytes(self, rows: int) -> int:
        """Working memory of the largest op, with the quarter by which it grows ahead."""
        used = self.shape.n_expert_used
        layers = {id(x.gate_exps): x for x in self.model.layers}.values()
        most = max(self.ops.moe_bytes(rows, used, x.gate_exps, x.down_exps) for x in layers)
        return most * 5 // 4

    def check_context(self, ctx: int) -> None:
        """Refuse a context that the model or the free memory does not allow.

        Raises
        ------
        ContextError
        MemoryBudgetError
        """
        limit = self.shape.n_ctx_train
        if not 1 <= ctx <= limit:
            raise ContextError(f"context: expected 1 to {limit} tokens, found {ctx}")
        estimate = self.memory_estimate(ctx)
        need = estimate.context + estimate.scratch
        free = self.ops.free_bytes()
        if need > free:
            raise MemoryBudgetError(
                f"context: expected at most {free >> 20} MiB of free memory to be needed, "
                f"found {need >> 20} MiB for {ctx} tokens"
            )

    def session(self, ctx: int) -> Session:
        """A new, empty timeline of at most `ctx` tokens."""
        self.check_context(ctx)
        return Session(self, ctx)

    def load_session(self, path: Path, ctx: int | None = None) -> Session:
        """The timeline of a session file, with room up to `ctx` tokens (default: as saved)."""
        from engine.cache.snapshot import header

        saved, identity = session_file.read_session(Path(path), self.identity.header_sha256)
        words = header(saved.data)
        session = self.session(ctx or max(words["ctx"], words["n_tokens"]))
        session.restore(saved)
        session.identity = identity
        return session

    def facts(self) -> dict[str, Any]:
        """What a record needs to know to be comparable; plain JSON values."""
        options = self.options
        facts = {
            "backend": options.backend,
            "threads": self.threads,
            "activations": options.activations,
            "kv": options.kv,
            "prefill_chunk": options.prefill_chunk,
            "repacked_bytes": self.repacked_bytes,
            "model_header_sha256": self.identity.header_sha256,
            "model_bytes": self.identity.size,
            "shape": {f.name: getattr(self.shape, f.name) for f in fields(self.shape)},
        }
        if self._mtp_file is not None:
            facts["mtp_header_sha256"] = self._mtp_file.identity.header_sha256
        facts.update(self.ops.facts())
        return facts


def _load_ops(options: EngineOptions) -> Any:
    if options.backend == "reference":
        from engine.ops import reference

        return reference
    if options.backend == "cuda":
        from engine.ops.cuda import open_ops

        return open_ops(options)
    from engine.ops import cpu

    return cpu


def _check_dims(shape: Shape, options: EngineOptions) -> None:
    """Refuse sizes that the kernels' vectors and rounding blocks do not divide.

    Raises
    ------
    LayoutError
    """
    if shape.head_dim % 16 or shape.n_rot % 2:
        raise LayoutError(
            f"attention.key_length: expected a multiple of 16, found {shape.head_dim}"
        )
    if options.kv == "official":
        if shape.n_nope % 64:
            raise LayoutError(
                "attention.key_length: expected a multiple of 64 beside the rotated dims for "
                f"--kv official (FP8 blocks), found {shape.n_nope}; --kv f32 takes it"
            )
        if 4 in shape.compress_ratios and shape.idx_head_dim & (shape.idx_head_dim - 1):
            raise LayoutError(
                "attention.indexer.key_length: expected a power of two for --kv official, "
                f"found {shape.idx_head_dim}; --kv f32 takes it"
            )


def _want_repack(options: EngineOptions, need: int) -> bool:
    """Whether to make the interleaved copy; 'auto' makes it within half of the free memory."""
    if options.backend != "cpu" or options.activations != "int8" or options.repack == "off":
        return False
    if options.repack == "on":
        return True
    return need <= psutil.virtual_memory().available // 2


def open_engine(options: EngineOptions) -> Engine:
    """Open, check and prepare a model.

    Parameters
    ----------
    options : EngineOptions

    Returns
    -------
    Engine

    Raises
    ------
    GGUFError, LayoutError
        If a file is not a model that can be run; nothing was allocated for it.
    BackendError
        If the backend is not available.
    """
    from engine.gguf.reader import open_gguf
    from engine.quant.registry import to_q8_0
    from engine.weights.bind import bind_mtp, bind_trunk, check_values, iter_tensors

    file = open_gguf(options.path)
    mtp_file = None
    try:
        shape, bound = bind_trunk(file)
        _check_dims(shape, options)
        bound_mtp = None
        if options.mtp_path is not None:
            mtp_file = open_gguf(options.mtp_path)
            bound_mtp = bind_mtp(mtp_file, shape)
        tensors = list(iter_tensors(bound))
        block: list[Tensor] = []
        if options.check_values:
            check_values(file.path.name, tensors)
        if bound_mtp is not None and mtp_file is not None:
            # A copy of the trunk's matrices, which some layouts carry, is not used.
            unused = {id(bound_mtp.token_embd), id(bound_mtp.output)}
            block = [t for t in iter_tensors(bound_mtp) if id(t) not in unused]
            if options.check_values:
                check_values(mtp_file.path.name, block)
            tensors += block

        ops = _load_ops(options)
        engine = Engine(options, file, mtp_file, shape, ops)
        engine.threads = ops.set_threads(options.threads)
        matrices = [t for t in tensors if not t.name.endswith(VECTOR_SUFFIXES)]
        if options.backend == "cuda":
            ops.arrange(matrices, {t.name for t in block}, options)
        engine.notices += ops.notices()
        foreign = sorted({t.format.name for t in matrices if not t.format.native})
        if foreign:
            engine.notices.append(f"{', '.join(foreign)}: no kernel; converted to Q8_0 in memory")
        repack = _want_repack(options, sum(map(ops.repack_bytes, matrices)))

        def prepare(tensor: Tensor) -> Any:
            if not tensor.format.native:
                tensor = to_q8_0(tensor)
            weight = build(tensor)
            engine.repacked_bytes += weight.repacked_bytes
            return weight

        build = partial(ops.prepare, activations=options.activations, repack=repack)
        preparer = Preparer(prepare, ops.vector)
        engine.model = preparer.trunk(shape, bound)
        if bound_mtp is not None:
            engine.mtp = preparer.mtp(shape, bound_mtp)
        return engine
    except BaseException:
        file.close()
        if mtp_file is not None:
            mtp_file.close()
        raise
