"""Opening a model: file, layout check, weights in the kernel set's form, sessions."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, fields
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from engine.cache import session_file
from engine.errors import ContextError, EngineError, OptionError
from engine.forward.dspark import DsparkModel, prepare_dspark
from engine.forward.model import Model, MtpModel, Preparer
from engine.memory import (
    MemoryPlan,
    WeightPlan,
    check_memory,
    free_bytes,
    matrices,
    open_device,
    plan_memory,
    plan_weights,
)
from engine.ops.base import Backend
from engine.ops.device import Bar
from engine.ops.operands import Weight
from engine.options import DSPARK_MODES, MODES, MTP_MODES, EngineOptions
from engine.session import Session
from engine.shape import Shape
from engine.text.chat import DEFAULT_SYSTEM, Message, render_chat
from engine.text.encoding import DEFAULT_EFFORT, Release, mtp_warning, release_of_file

if TYPE_CHECKING:
    from engine.gguf.identity import FileIdentity
    from engine.gguf.reader import GGUFFile
    from engine.text.tokenizer import Tokenizer
    from engine.weights.files import ModelFiles, ModelWeights
    from engine.weights.tensor import Tensor


class Engine:
    """A model ready to run; made by `open_engine`, closed by `close` or as a context manager."""

    def __init__(
        self,
        options: EngineOptions,
        files: ModelFiles,
        ops: Backend,
    ) -> None:
        self.options = options
        self.shape: Shape = files.weights.shape
        self.ops = ops
        self.notices: list[str] = []
        self.threads = 0
        self.model: Model
        self.mtp: MtpModel | None = None
        self.dspark: DsparkModel | None = None
        self.repacked_bytes = 0
        self.weight_bytes = 0  # all that is held of the weights beside the files' pages
        self._files = files

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
        self._files.close()

    @property
    def identity(self) -> FileIdentity:
        """Of the trunk file."""
        return self.file.identity

    @property
    def file(self) -> GGUFFile:
        """The trunk file: metadata and tensor table."""
        return self._files.trunk

    @property
    def weights(self) -> ModelWeights:
        """The tensors of trunk and draft block by their role, as the files hold them."""
        return self._files.weights

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The file's tokenizer, built at first use."""
        from engine.text.tokenizer import Tokenizer

        return Tokenizer.from_metadata(self.file.metadata)

    @cached_property
    def release(self) -> Release:
        """Which chat format the weights were trained with, by what the trunk file says."""
        return release_of_file(self.file)

    def chat(
        self, message: str, *, system: str = DEFAULT_SYSTEM, think: str = DEFAULT_EFFORT
    ) -> list[int]:
        """A user's message as the first turn of a conversation, up to where the model answers.

        Parameters
        ----------
        message : str
            Its text never becomes a control token.
        system : str
            What precedes it; '' for nothing.
        think : {'none', 'on', 'low', 'high', 'max'}
            Whether the reply begins with a think block, and the effort: 'on' is the least that
            the model's release knows, which is called 'high' in the first and 'low' in 0731.

        Returns
        -------
        list of int
            Token ids for `engine.generate`.

        Raises
        ------
        OptionError
            If the release has no such think mode, or asks for a large context in it.
        """
        encoding = self.release.encoding
        mode = encoding.check(think, "think")
        if encoding.effective(mode, 0) != mode:
            raise OptionError(f"think: expected none or {encoding.default}, found {think!r}")
        turns = [Message("system", system), Message("user", message)]
        spans = render_chat(turns, think, 0, encoding=encoding)
        return list(self.tokenizer.encode_spans(spans).ids)

    def modes(self) -> tuple[str, ...]:
        """Decode modes that this engine can run with the files it has."""
        absent: tuple[str, ...] = MTP_MODES if self.mtp is None else ()
        absent += DSPARK_MODES if self.dspark is None else ()
        return tuple(mode for mode in MODES if mode not in absent)

    def memory_estimate(self, ctx: int) -> MemoryPlan:
        """Bytes that the weights hold and a session of `ctx` tokens needs."""
        return plan_memory(self._files, self.options, ctx, weight_bytes=self.weight_bytes)

    def memory_warning(self, ctx: int) -> str:
        """What a user must know of a session of `ctx` tokens that is open; mostly ''."""
        plan = self.memory_estimate(ctx)
        # Weights and session are held already, the files' pages count as available.
        return plan.warning(self.ops.free_bytes() + plan.resident)

    def check_context(self, ctx: int) -> None:
        """Refuse a context that the model or the free memory does not allow.

        Raises
        ------
        ContextError
        MemoryBudgetError
        """
        _check_limit(ctx, self.shape.n_ctx_train)
        check_memory(self.memory_estimate(ctx).session, self.ops.free_bytes(), ctx)

    def session(self, ctx: int) -> Session:
        """A new, empty timeline of at most `ctx` tokens."""
        self.check_context(ctx)
        return Session(self, ctx)

    def load_session(self, path: Path, ctx: int | None = None) -> Session:
        """The timeline of a session file, with room up to `ctx` tokens (default: as saved).

        Raises
        ------
        SnapshotError
            If the file is damaged or a session of another model.
        """
        from engine.cache.snapshot import header

        saved = session_file.read_session(Path(path), self.identity)
        words = header(saved.snapshot.data)
        session = self.session(ctx or max(words["ctx"], words["n_tokens"]))
        session.restore(saved.snapshot)
        session.place.take(Path(path), saved)
        return session

    def facts(self) -> dict[str, object]:
        """What a record needs to know to be comparable; plain JSON values."""
        options = self.options
        facts: dict[str, object] = {
            "backend": options.backend,
            "threads": self.threads,
            "activations": options.activations,
            "kv": options.kv,
            "prefill_chunk": options.prefill_chunk,
            "repacked_bytes": self.repacked_bytes,
            "model_header_sha256": self.identity.header_sha256,
            "model_sampled_sha256": self.identity.sampled_sha256(),
            "model_bytes": self.identity.size,
            "shape": {f.name: getattr(self.shape, f.name) for f in fields(self.shape)},
        }
        if self._files.mtp is not None:
            facts["mtp_header_sha256"] = self._files.mtp.identity.header_sha256
            facts["mtp_sampled_sha256"] = self._files.mtp.identity.sampled_sha256()
        if self.dspark is not None and self._files.dspark is not None:
            identity, bound = self._files.dspark.identity, self._files.weights.dspark
            assert bound is not None
            facts["dspark_header_sha256"] = identity.header_sha256
            facts["dspark_sampled_sha256"] = identity.sampled_sha256()
            facts["dspark"] = {**asdict(self.dspark.spark), "layout": bound.layout}
            facts["dspark_pairing"] = self._files.pairing
        facts.update(self.ops.facts())
        return facts


def check_opening(options: EngineOptions, ctx: int | None = None, default_ctx: int = 0) -> str:
    """Refuse what opening a model refuses, from headers and sizes: no weight is read.

    Parameters
    ----------
    options : EngineOptions
    ctx : int, optional
        Tokens of the session that is to be opened.
    default_ctx : int
        Tokens where `ctx` is None, or as many as the model allows; 0 for no session.

    Returns
    -------
    str
        A warning of a model that the host's memory does not hold; mostly ''.

    Raises
    ------
    GGUFError, LayoutError
        If a file is not a model that can be run, or the backend has no kernel for a format or a
        size of it.
    BackendError
        If the backend is not available.
    ContextError, MemoryBudgetError
        If the model does not have that many tokens of context, or the memory does not.
    """
    from engine.weights.files import open_model

    with open_model(options) as files:
        device = open_device(options)
        limit = files.weights.shape.n_ctx_train
        if ctx is None:
            ctx = min(default_ctx, limit)
        if not ctx:
            plan_weights(files.weights, options, device)
            return ""
        _check_limit(ctx, limit)
        plan = plan_memory(files, options, ctx, device=device)
        free = free_bytes(device)
        check_memory(plan.resident, free, ctx)
        return plan.warning(free)


def _check_limit(ctx: int, limit: int) -> None:
    if not 1 <= ctx <= limit:
        raise ContextError(f"context: expected 1 to {limit} tokens, found {ctx}")


def _load_ops(options: EngineOptions) -> Backend:
    if options.backend == "reference":
        from engine.ops.reference.ops import ReferenceOps

        return ReferenceOps()
    if options.backend == "cuda":
        from engine.ops.cuda import open_ops

        return open_ops(options)
    from engine.ops.cpu.ops import CpuOps

    return CpuOps()


def open_engine(options: EngineOptions, bar: Bar | None = None) -> Engine:
    """Open, check and prepare a model.

    Parameters
    ----------
    options : EngineOptions
    bar : callable, optional
        Called with the bytes that a kernel set reads ahead of the first pass, if there are any;
        returns what is called with bytes done.

    Returns
    -------
    Engine

    Raises
    ------
    GGUFError, LayoutError
        If a file is not a model that can be run, or the backend has no kernel for a format or a
        size of it; nothing was allocated for it.
    BackendError
        If the backend is not available.
    MemoryBudgetError
        If a device cannot hold what must be copied to it.
    """
    from engine.weights.files import open_model
    from engine.weights.foreign import notices
    from engine.weights.verify import verify_values

    files = open_model(options)
    ops: Backend | None = None
    try:
        weights = files.weights
        # What a set, its device or its memory refuse comes first: it costs no reading of weights.
        ops = _load_ops(options)
        engine = Engine(options, files, ops)
        engine.threads = ops.set_threads(options.threads)
        plan = _plan_weights(engine)
        verify_values(files, options.check_values)
        for file in files.all():
            file.identity.sampled_sha256()  # a session can be saved whatever becomes of the file
        tensors = matrices(weights.tensors)
        ops.arrange(tensors, {t.name for t in weights.draft_tensors}, options, bar)
        engine.notices += ops.notices() + notices(files.trunk) + files.notices
        if options.mtp_path is not None and (warning := mtp_warning(engine.release)):
            engine.notices.append(warning)

        def prepare(tensor: Tensor) -> Weight:
            weight = build(tensor)
            engine.repacked_bytes += weight.repacked_bytes
            return weight

        build = partial(ops.prepare, activations=options.activations, repack=plan.repack)
        preparer = Preparer(prepare, ops.vector)
        engine.model = preparer.trunk(weights.shape, weights.trunk)
        if weights.mtp is not None:
            engine.mtp = preparer.mtp(weights.shape, weights.mtp)
        if weights.dspark is not None:
            engine.dspark = prepare_dspark(
                preparer, prepare, ops.vector, weights.shape, weights.dspark
            )
        # A driver may refuse to read the file in place, so that more is copied than was planned.
        on_device = options.backend == "cuda"
        engine.weight_bytes = (engine.repacked_bytes if on_device else plan.copies) + plan.vectors
        return engine
    except BaseException:
        if ops is not None:
            with contextlib.suppress(EngineError):  # of a device that was lost: why is told already
                ops.close()
        files.close()
        raise


def _plan_weights(engine: Engine) -> WeightPlan:
    """What is to be made of an engine's weights, where its kernel set keeps them."""
    device = None
    if engine.options.backend == "cuda":
        from engine.ops.cuda.ops import CudaOps

        assert isinstance(engine.ops, CudaOps)
        device = engine.ops.ctx.device
    return plan_weights(engine.weights, engine.options, device)
