"""An engine without weights: its model recites a script, and everything it is asked is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from engine.cli.prompt import Header
from engine.errors import ContextError
from engine.ops.operands import Logits
from engine.ops.reference.ops import ReferenceOps
from engine.text.encoding import FIRST, Release
from engine.text.tokenizer import Tokenizer
from tests.engine.text.vocabulary import metadata


class FakeSession:
    def __init__(self, engine: FakeEngine, ctx: int) -> None:
        self.engine = engine
        self.ctx = ctx
        self.tokens: list[int] = []
        self.n_prompt = 0
        self.title: str | None = None
        self.place = SimpleNamespace(notices=[])

    @property
    def n_past(self) -> int:
        return len(self.tokens)

    @property
    def room(self) -> int:
        return self.ctx - len(self.tokens)

    @property
    def logits(self) -> np.ndarray:
        logits = np.zeros(self.engine.shape.n_vocab, np.float32)
        step = self.n_past - self.n_prompt
        script = self.engine.script
        logits[script[step] if step < len(script) else self.engine.eos] = 40.0
        if self.engine.flat:
            logits[:] = 0.0
        return logits

    def sync(self, tokens: list[int], progress: Callable[[int, int], None] | None = None) -> int:
        assert tokens[: self.n_past] == self.tokens
        n = len(tokens) - self.n_past
        self.engine.before_token()
        self.tokens = list(tokens)
        self.n_prompt = len(tokens)
        if progress:
            progress(n, n)
        return n

    @property
    def last(self) -> Logits:
        return Logits(ReferenceOps(), self.logits[None], 0)

    def eval(self, token: int) -> Logits:
        assert self.room > 0
        self.engine.before_token()
        self.tokens.append(token)
        return self.last

    def all_logits(self, tokens: list[int], routing: bool = False) -> tuple[np.ndarray, Any]:
        n, n_vocab = len(tokens), self.engine.shape.n_vocab
        rows = np.arange(n * n_vocab, dtype=np.float32).reshape(n, n_vocab)
        self.engine.before_token()
        routed = SimpleNamespace(
            ids=np.ones((3, n, 2), np.int32), margin=np.full((3, n), 0.5, np.float32)
        )
        return rows, routed if routing else None

    def save_file(self, path: Path, title: str | None = None, *, new: bool = False) -> None:
        path.write_text(json.dumps({"tokens": self.tokens, "ctx": self.ctx, "title": title}))


class FakeEngine:
    """Stands where `open_engine` would return an engine."""

    def __init__(self, reply: str = "Hello, wörld.", n_ctx_train: int = 1 << 20, **changes: Any):
        self.tokenizer = Tokenizer.from_metadata(metadata(**changes))
        self.shape = SimpleNamespace(n_vocab=self.tokenizer.n_vocab, n_ctx_train=n_ctx_train)
        self.notices: list[str] = []
        self.warning = ""
        self.release = Release(FIRST)
        self.eos = self.tokenizer.special_id("<｜end▁of▁sentence｜>")
        self.script = self.tokenizer.encode(reply, special="allow").ids
        self.flat = False
        self.opened: list[Any] = []
        self.sessions: list[FakeSession] = []
        self.before_token: Callable[[], None] = lambda: None

    def open(self, options: Any, bar: Any = None) -> FakeEngine:
        self.opened.append(options)
        return self

    def header(self, options: Any) -> Header:
        return Header(self.tokenizer, self.release, self.shape.n_ctx_train)

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def memory_warning(self, ctx: int) -> str:
        return self.warning

    def memory_estimate(self, ctx: int) -> str:
        return f"context of {ctx} tokens"

    def session(self, ctx: int) -> FakeSession:
        if ctx > self.shape.n_ctx_train:
            raise ContextError(f"context: expected 1 to {self.shape.n_ctx_train}, found {ctx}")
        self.sessions.append(FakeSession(self, ctx))
        return self.sessions[-1]

    def load_session(self, path: Path, ctx: int | None = None) -> FakeSession:
        saved = json.loads(path.read_text())
        session = self.session(ctx or saved["ctx"])
        session.tokens = saved["tokens"]
        return session
