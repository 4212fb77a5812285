"""Engines without a model for the peer benchmark's own processes: arithmetic on token ids."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ds4bench.peer.side import Opened, Side
from engine.errors import ModelFileError


class FakeEngine:
    """A decoded token t makes t + `shift` the likeliest, for every third t.

    The model file holds JSON: 'n_ctx_most'; 'refused', the side that refuses the file; 'dies',
    the side whose process ends in its first decoded token.
    """

    def __init__(self, name: str, shift: int) -> None:
        self.name, self.shift = name, shift
        self.last = 0
        self.file: dict[str, object] = {}

    def open(self, path: Path, threads: int | None, activations: str, kv: str) -> Opened:
        self.file = json.loads(path.read_text())
        if self.file.get("refused") == self.name:
            raise ModelFileError(f"{path}: expected a model, found JSON")
        most = self.file.get("n_ctx_most")
        assert most is None or isinstance(most, int)
        notes = (f"pid {os.getpid()}", f"activations {activations}", f"kv {kv}")
        return Opened(self.name, threads or 2, 100, most, notes)

    def start(self, n_ctx: int) -> None:
        self.last = 0

    def prefill(self, ids: list[int]) -> None:
        self.last = ids[-1]

    def decode(self, token: int) -> None:
        if self.file.get("dies") == self.name:
            os._exit(7)
        self.last = token

    def top(self) -> int:
        return self.last + (self.shift if self.last % 3 == 0 else 0)

    def step_bytes(self, n_ctx: int) -> int | None:
        return 1000 + n_ctx if self.shift == 0 else None


def open_ours() -> Side:
    return Side(FakeEngine("ds4", 0))


def open_theirs() -> Side:
    return Side(FakeEngine("llama.cpp", 1))
