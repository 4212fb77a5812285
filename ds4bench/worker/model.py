"""A GGUF file as the worker sees it: facts before loading, then sessions and decoders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ds4bench.plan import DEVICE_FIELDS
from ds4bench.worker.main import Worker
from ds4bench.worker.modes import implemented_modes, open_mode

# Up to this size a file is hashed whole for its identity; beyond, header, size and time count.
HASH_WHOLE = 1 << 30


def open_worker() -> Worker:
    """The worker of a real sweep."""
    return Worker(FileModel())


class FileModel:
    """The engine behind the worker's commands."""

    def __init__(self) -> None:
        self.engine: Any = None
        self.forbidden: frozenset[int] = frozenset()
        self._tokenizer: Any = None
        self._bytes: Any = None

    def inspect(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Shape, identity, memory and modes from headers alone.

        Raises
        ------
        ModelFileError
            If a file is not a model that can be run.
        """
        from engine.cache.snapshot import snapshot_bytes
        from engine.memory import free_bytes, open_device, plan_memory
        from engine.text.tokenizer import Tokenizer
        from engine.weights.files import open_files
        from engine.weights.traffic import INDEX_VALUE_BYTES, decode_traffic

        options = self._options(settings)
        with open_files(options.path, options.mtp_path) as opened:
            shape, trunk = opened.weights.shape, opened.weights.trunk
            # Tensors are views of the mapping: everything that needs them happens before closing.
            decode_bytes = {
                frontier: decode_traffic(
                    shape, trunk, frontier, idx_value_bytes=INDEX_VALUE_BYTES[options.kv]
                ).total
                for frontier in _few(settings["frontiers"])
            }
            device = open_device(options)
            memory = plan_memory(opened, options, settings["context"], device=device)
            self._tokenizer = Tokenizer.from_metadata(opened.trunk.metadata)
            files = [_file_facts(file.identity) for file in opened.all()]
            del trunk
        has_mtp = options.mtp_path is not None
        self.forbidden = frozenset(self._tokenizer.eos_ids)
        return {
            "name": shape.name,
            "n_ctx_train": shape.n_ctx_train,
            "n_vocab": shape.n_vocab,
            "n_layer": shape.n_layer,
            "has_mtp": has_mtp,
            "implemented_modes": implemented_modes(),
            "model_id": files[0]["id"],
            "mtp_id": files[1]["id"] if has_mtp else None,
            "files": files,
            "decode_bytes": decode_bytes,
            "memory": {
                "mapped": memory.mapped,
                "context": memory.context,
                "scratch": memory.session - memory.context,
                "snapshot": snapshot_bytes(shape, settings["frontiers"][-1]),
            },
            "weight_bytes": memory.weights,
            "free_device_bytes": free_bytes(device) if memory.on_device else None,
        }

    def encode_prompt(self, prompt: dict[str, Any], n_tokens: int) -> list[int]:
        """Token ids of the prompt; a generated one is made long enough for `n_tokens`."""
        if prompt["text"] is not None:
            return self._encode(prompt["text"], prompt["chat"], prompt["system"], n_tokens)
        from engine.nano import prose

        n_chars = 5 * n_tokens + 1000
        while True:
            text = prose.text(prompt["seed"], n_chars)
            ids = self._encode(text, prompt["chat"], prompt["system"], n_tokens)
            if len(ids) >= n_tokens:
                return ids
            n_chars = n_chars * max(n_tokens, 1) * 11 // (10 * max(len(ids), 1)) + 1000

    def load(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Open the engine; returns its facts and notices."""
        from ds4bench.telemetry.roofline import DecodeBytes
        from engine.engine import open_engine

        options = self._options(settings)
        if settings["warm_weights"]:
            for path in filter(None, (options.path, options.mtp_path)):
                read_through(path)
        self.engine = open_engine(options)
        bound = self.engine.weights
        self._bytes = DecodeBytes(bound.shape, bound.trunk, bound.mtp, options.kv)
        return {**self.engine.facts(), "notices": list(self.engine.notices)}

    def bandwidth(self, settings: dict[str, Any]) -> dict[str, Any]:
        from ds4bench.telemetry.roofline import read_bandwidth

        if settings["backend"] == "cuda":
            return {"read_bytes_per_s": self._device_bandwidth(settings), "threads": 0}
        threads = settings["threads"] or len(os.sched_getaffinity(0))
        return {"read_bytes_per_s": read_bandwidth(threads), "threads": threads}

    def _device_bandwidth(self, settings: dict[str, Any]) -> float:
        """Of the device's memory, by a copy within it: bytes read plus bytes written."""
        from engine.tooling.diagnose.gpu_speed import copy_bandwidth

        if self.engine is not None:
            return copy_bandwidth(self.engine.ops)
        from engine.ops.cuda import open_ops

        return copy_bandwidth(open_ops(self._options(settings)))

    def counters(self) -> dict[str, Any]:
        """Copies and launches of the device so far; empty without one."""
        facts = self.engine.facts()
        return {name: facts[name] for name in ("transfers", "launches") if name in facts}

    def session(self, ctx: int) -> Any:
        return self.engine.session(ctx)

    def decoder(self, session: Any, mode: str, settings: dict[str, Any]) -> Any:
        return open_mode(
            session,
            mode,
            draft=settings["mtp_draft"],
            adaptive=settings["mtp_adaptive"],
            margin=settings["mtp_margin"],
            forbidden=self.forbidden,
            sampling=settings["sampling"],
        )

    def step_bytes(
        self, mode: str, n_ctx: int, tokens: Sequence[int], drafted: Sequence[int]
    ) -> float:
        """Bytes that a step of a finished window had to read, on average."""
        return self._bytes.per_step(mode, n_ctx, tokens, drafted)

    def _encode(self, text: str, chat: bool, system: str, ctx: int) -> list[int]:
        if not chat:
            return list(self._tokenizer.encode(text).ids)
        from engine.text.chat import Message, render_chat

        turns = [Message("system", system)] if system else []
        spans = render_chat([*turns, Message("user", text)], "none", ctx)
        return list(self._tokenizer.encode_spans(spans).ids)

    def _options(self, settings: dict[str, Any]) -> Any:
        from engine.options import EngineOptions

        return EngineOptions(
            path=Path(settings["model"]),
            mtp_path=Path(settings["mtp"]) if settings["mtp"] else None,
            threads=settings["threads"],
            activations=settings["activations"],
            kv=settings["kv"],
            repack=settings["repack"],
            **{name: settings[name] for name in DEVICE_FIELDS},
        )


def _file_facts(identity: Any) -> dict[str, Any]:
    """Identity of a model file as plain values; `id` is what must be equal to resume."""
    whole = identity.sha256() if identity.size <= HASH_WHOLE else None
    loose = f"{identity.header_sha256}:{identity.size}:{identity.mtime_ns}"
    parts = identity.parts or (identity,)
    return {
        "id": f"sha256:{whole}" if whole else f"header:{loose}",
        "path": str(identity.path),
        "size": identity.size,
        "sha256": whole,
        "header_sha256": identity.header_sha256,
        "stat": [[str(p.path), *p.key] for p in parts],
    }


def _few(values: Sequence[int], most: int = 32) -> list[int]:
    """At most `most` of the values, evenly spread, first and last among them."""
    if len(values) <= most:
        return list(values)
    last = len(values) - 1
    return sorted({values[i * last // (most - 1)] for i in range(most)})


def read_through(path: Path, chunk: int = 8 << 20) -> None:
    """Read a file once, so that its pages are in memory before anything is timed."""
    buffer = bytearray(chunk)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
