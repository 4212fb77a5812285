"""A GGUF file as the worker sees it: facts before loading, then sessions and decoders.

`FileModel` knows the engine; it knows neither what is timed nor what a sweep is.
"""

from __future__ import annotations

from collections.abc import Sequence

from ds4bench.panel.texts import generated
from ds4bench.plan import DEVICE_FIELDS, Prompt, SweepPlan
from ds4bench.telemetry.roofline import DecodeBytes, read_rates
from ds4bench.worker.compiling import CompileCounter
from ds4bench.worker.facts import Bandwidth, FileFacts, FileStat, MemoryNeed, ModelFacts
from ds4bench.worker.messages import Copies, DeviceCounters, EngineFacts
from ds4bench.worker.modes import open_mode
from ds4bench.worker.worker import Worker
from engine.cache.snapshot import snapshot_bytes
from engine.engine import Engine, open_engine
from engine.errors import EngineError
from engine.gguf.identity import FileIdentity
from engine.gguf.warm import read_through
from engine.memory import free_bytes, open_device, plan_memory, plan_weights
from engine.options import MODES, EngineOptions
from engine.session import Session
from engine.spec.protocol import Decoder
from engine.text.chat import Message, render_chat
from engine.text.tokenizer import Tokenizer
from engine.tooling.check_values import shown_reading
from engine.tooling.diagnose.gpu_speed import copy_bandwidth
from engine.tooling.results.environment import usable_cores
from engine.weights.files import ModelFiles, open_model
from engine.weights.traffic import INDEX_VALUE_BYTES, decode_traffic

# Up to this size a file is hashed whole for its identity; beyond, pieces of every tensor count.
HASH_WHOLE = 1 << 30
# Tokens per row that the indexer scores.
INDEXED_RATIO = 4
# More than a token of most texts has; of others, more text is read.
CHARS_PER_TOKEN = 6


def open_worker() -> Worker[Session]:
    """The worker of a real sweep."""
    return Worker(FileModel())


class FileModel:
    """The engine behind the worker's commands."""

    def __init__(self) -> None:
        self.forbidden: frozenset[int] = frozenset()
        self._opened: Engine | None = None
        self._tokenizer: Tokenizer | None = None
        self._bytes: DecodeBytes | None = None
        self._compilations = CompileCounter()

    @property
    def engine(self) -> Engine:
        """The opened engine.

        Raises
        ------
        EngineError
            Before `load`.
        """
        if self._opened is None:
            raise EngineError("worker: expected the command 'load' first, found another")
        return self._opened

    def inspect(self, plan: SweepPlan) -> ModelFacts:
        """Shape, identity, memory and modes from headers alone.

        Raises
        ------
        ModelFileError
            If a file is not a model that can be run.
        """
        options = _options(plan)
        with open_model(options) as opened:
            shape, trunk = opened.weights.shape, opened.weights.trunk
            # Tensors are views of the mapping: everything that needs them happens before closing.
            decode_bytes = {
                frontier: decode_traffic(
                    shape, trunk, frontier, idx_value_bytes=INDEX_VALUE_BYTES[options.kv]
                ).total
                for frontier in _few(plan.frontiers)
            }
            device = open_device(options)
            memory = plan_memory(opened, options, plan.context, device=device)
            effective = _effective(opened, options)
            self._tokenizer = Tokenizer.from_metadata(opened.trunk.metadata)
            files = [_file_facts(file.identity) for file in opened.all()]
            del trunk
        has_mtp = options.mtp_path is not None
        has_dspark = options.dspark_path is not None
        self.forbidden = frozenset(self._tokenizer.eos_ids)
        return ModelFacts(
            name=shape.name,
            n_ctx_train=shape.n_ctx_train,
            n_vocab=shape.n_vocab,
            n_layer=shape.n_layer,
            has_mtp=has_mtp,
            implemented_modes=MODES,
            model_id=files[0].id,
            mtp_id=files[1].id if has_mtp else None,
            has_dspark=has_dspark,
            dspark_id=files[-1].id if has_dspark else None,
            files=tuple(files),
            decode_bytes=decode_bytes,
            memory=MemoryNeed(
                mapped=memory.mapped,
                context=memory.context,
                scratch=memory.session - memory.context,
                snapshot=snapshot_bytes(shape, plan.ctx_max),
            ),
            weight_bytes=memory.weights,
            free_device_bytes=free_bytes(device) if memory.on_device else None,
            effective=effective,
        )

    def encode_prompt(self, prompt: Prompt, n_tokens: int, text_class: str = "") -> list[int]:
        """Token ids of the prompt; a generated one is made long enough for `n_tokens`."""
        if prompt.path is not None:
            return self._encode_start(prompt, n_tokens)
        n_chars = 5 * n_tokens + 1000
        while True:
            text = generated(text_class, prompt.seed, n_chars)
            ids = self._encode(prompt, text, n_tokens)
            if len(ids) >= n_tokens:
                return ids
            n_chars = n_chars * max(n_tokens, 1) * 11 // (10 * max(len(ids), 1)) + 1000

    def load(self, plan: SweepPlan) -> EngineFacts:
        """Open the engine; returns its facts and notices."""

        options = _options(plan)
        if plan.warm_weights:
            for path in options.paths:
                read_through(path)
        with shown_reading(options, line=True) as bar:
            engine = self._opened = open_engine(options, bar)
        bound = engine.weights
        self._bytes = DecodeBytes(bound, options.kv)
        return EngineFacts(engine.facts(), tuple(engine.notices))

    def bandwidth(self, plan: SweepPlan) -> Bandwidth:
        """Read rate of the memory that holds the weights: the host's, or a device's own."""
        if plan.backend == "cuda":
            rate = self._device_bandwidth(plan)
            return Bandwidth(rate, 0, (rate,))
        threads = plan.threads or usable_cores()
        rates = read_rates(threads)
        return Bandwidth(max(rates, default=0.0), threads, tuple(rates))

    def _device_bandwidth(self, plan: SweepPlan) -> float:
        """Of the device's memory, by a copy within it: bytes read plus bytes written."""
        if self._opened is not None:
            return copy_bandwidth(self._opened.ops)
        from engine.ops.cuda import open_ops  # needs packages that only CUDA users have

        return copy_bandwidth(open_ops(_options(plan)))

    def counters(self) -> DeviceCounters | None:
        """Copies and launches of the device so far; None without one."""
        facts = self.engine.facts()
        if "transfers" not in facts:
            return None
        copied, launches = facts["transfers"], facts["launches"]
        assert isinstance(copied, dict) and isinstance(launches, dict), facts
        copies = Copies(copied["h2d_bytes"], copied["h2d_copies"])
        return DeviceCounters(copies, dict(launches))

    def compiled(self) -> int:
        """How often this process has compiled or loaded kernels so far."""
        return self._compilations.count()

    def reach(self, plan: SweepPlan) -> int:
        """Tokens at which the indexer has more rows than it may choose, and kernels that choose."""
        shape = self.engine.shape
        return (shape.idx_top_k + 1) * INDEXED_RATIO

    def session(self, ctx: int) -> Session:
        """A fresh timeline with room for `ctx` tokens."""
        return self.engine.session(ctx)

    def decoder(self, session: Session, mode: str, plan: SweepPlan) -> Decoder:
        """A decode mode over a timeline, as the plan's options shape it."""
        return open_mode(session, mode, plan, self.forbidden)

    def step_bytes(
        self, mode: str, n_ctx: int, tokens: Sequence[int], drafted: Sequence[int]
    ) -> float:
        """Bytes that a step of a finished window had to read, on average."""
        assert self._bytes is not None, "load was not called"
        return self._bytes.per_step(mode, n_ctx, tokens, drafted)

    def _encode_start(self, prompt: Prompt, n_tokens: int) -> list[int]:
        """The prompt's tokens, or at least `n_tokens` of a text that holds many more.

        A cut changes tokens next to it only, but how far that reaches depends on the text; so a
        start counts when twice as much text begins with the same tokens.
        """
        text, before = prompt.text, None
        n_chars = CHARS_PER_TOKEN * n_tokens + 4096
        while n_chars < len(text):
            ids = self._encode(prompt, text[:n_chars], n_tokens)
            if len(ids) >= n_tokens:
                if ids[:n_tokens] == before:
                    return ids
                before = ids[:n_tokens]
            n_chars *= 2
        return self._encode(prompt, text, n_tokens)

    def _encode(self, prompt: Prompt, text: str, ctx: int) -> list[int]:
        assert self._tokenizer is not None, "inspect was not called"
        if not prompt.chat:
            return list(self._tokenizer.encode(text).ids)
        turns = [Message("system", prompt.system)] if prompt.system else []
        spans = render_chat([*turns, Message("user", text)], "none", ctx)
        return list(self._tokenizer.encode_spans(spans).ids)


def _options(plan: SweepPlan) -> EngineOptions:
    return EngineOptions(
        path=plan.model,
        mtp_path=plan.mtp,
        dspark_path=plan.dspark,
        draft_force=plan.draft_force,
        threads=plan.threads,
        activations=plan.activations,
        kv=plan.kv,
        repack=plan.repack,
        check_values=plan.check_values,
        **{name: getattr(plan, name) for name in DEVICE_FIELDS},
    )


def _effective(opened: ModelFiles, options: EngineOptions) -> dict[str, object]:
    """What "auto" comes to on this machine; a device has copies of its own."""
    if options.backend != "cpu":
        return {}
    return {"repacked": plan_weights(opened.weights, options).repack}


def _file_facts(identity: FileIdentity) -> FileFacts:
    """Identity of a model file; a very large one is told by pieces of every tensor."""
    whole = identity.sha256() if identity.size <= HASH_WHOLE else None
    sampled = identity.sampled_sha256()
    parts = identity.parts or (identity,)
    return FileFacts(
        id=f"sha256:{whole}" if whole else f"sampled:{sampled}",
        path=str(identity.path),
        size=identity.size,
        sha256=whole,
        header_sha256=identity.header_sha256,
        stat=tuple(FileStat(str(p.path), *p.key) for p in parts),
        sampled_sha256=sampled,
    )


def _few(values: Sequence[int], most: int = 32) -> list[int]:
    """At most `most` of the values, evenly spread, first and last among them."""
    if len(values) <= most:
        return list(values)
    last = len(values) - 1
    return sorted({values[i * last // (most - 1)] for i in range(most)})
