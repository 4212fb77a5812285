"""Our engine as one side of the comparison, for its own process."""

from __future__ import annotations

from pathlib import Path

from ds4bench.peer.side import Opened, Side
from engine.engine import Engine, open_engine
from engine.options import EngineOptions
from engine.session import Session
from engine.weights.bind import bind_trunk
from engine.weights.traffic import INDEX_VALUE_BYTES, decode_traffic

NAME = "ds4"


class Ours:
    """See `ds4bench.peer.side.Engine`."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._session: Session | None = None
        self._ids: list[int] = []

    def open(self, path: Path, threads: int | None, activations: str, kv: str) -> Opened:
        options = EngineOptions(path=path, threads=threads, activations=activations, kv=kv)
        engine = self._engine = open_engine(options)
        shape = engine.shape
        notes = (f"activations {activations}, kv {kv}",)
        return Opened(NAME, engine.threads, shape.n_vocab, shape.n_ctx_train, notes)

    @property
    def _live(self) -> Session:
        assert self._session is not None, "start was not called"
        return self._session

    def start(self, n_ctx: int) -> None:
        assert self._engine is not None, "open was not called"
        self._session = None  # its rows go before the new ones come
        self._session = self._engine.session(n_ctx)
        self._ids = []

    def prefill(self, ids: list[int]) -> None:
        self._ids += ids
        self._live.sync(self._ids)

    def decode(self, token: int) -> None:
        self._live.eval(token)
        self._ids.append(token)

    def top(self) -> int:
        return int(self._live.logits.argmax())

    def step_bytes(self, n_ctx: int) -> int | None:
        engine = self._engine
        assert engine is not None, "open was not called"
        _, weights = bind_trunk(engine.file)
        value_bytes = INDEX_VALUE_BYTES[engine.options.kv]
        traffic = decode_traffic(engine.shape, weights, n_ctx, idx_value_bytes=value_bytes)
        return round(traffic.total)


def open_worker() -> Side:
    """The worker of our side."""
    return Side(Ours())
