"""llama.cpp as one side of the comparison, for its own process."""

from __future__ import annotations

from pathlib import Path

from ds4bench.peer.llamacpp import BATCH, LlamaCpp
from ds4bench.peer.side import Opened, Side
from engine.tooling.results.environment import usable_cores

NAME = LlamaCpp.name


class Theirs:
    """See `ds4bench.peer.side.Engine`."""

    def __init__(self) -> None:
        self._peer: LlamaCpp | None = None

    @property
    def _live(self) -> LlamaCpp:
        assert self._peer is not None, "open was not called"
        return self._peer

    def open(self, path: Path, threads: int | None, activations: str, kv: str) -> Opened:
        """Its KV rows keep their default type and it knows no activations: both are of ours."""
        peer = self._peer = LlamaCpp(path, threads or usable_cores())
        notes = ["KV f16", "flash attention off", f"batch {BATCH}"]
        if peer.amx_off:
            notes.insert(2, "AMX and repacking off")
        return Opened(NAME, peer.threads, peer.n_vocab, None, tuple(notes))

    def start(self, n_ctx: int) -> None:
        self._live.start(n_ctx)

    def prefill(self, ids: list[int]) -> None:
        self._live.prefill(ids)

    def decode(self, token: int) -> None:
        self._live.decode(token)

    def top(self) -> int:
        return self._live.top()

    def step_bytes(self, n_ctx: int) -> int | None:
        """Not known: it reads each weight in a layout of its own."""
        return None


def open_worker() -> Side:
    """The worker of llama.cpp's side."""
    return Side(Theirs())
