"""One engine in a process of its own: what it is asked, what it answers, and both ends of that.

In one process both engines' threads wait for each other's cores, and llama.cpp's spinning barriers
lose several times their speed there, which flatters us. Each side therefore runs in a timed
process (`ds4bench.worker.main`) and takes its seconds itself. This module knows neither whose turn
it is nor what is shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from ds4bench.worker.child import Child, ChildDied
from ds4bench.worker.messages import Command
from engine.errors import BackendError

R = TypeVar("R")

# Longest wait for one answer, seconds: a chunk of a large model from a cold disk.
PATIENCE = 3600.0


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine with its weights.

    Attributes
    ----------
    name : str
    threads : int
        Worker threads of prefill and of decode, as the engine itself says.
    n_vocab : int
    n_ctx_most : int or None
        Longest timeline that the engine allows; None where it does not say.
    notes : tuple of str
        What a reader must know of how it runs.
    """

    name: str
    threads: int
    n_vocab: int
    n_ctx_most: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """Wall seconds of a turn, and the likeliest token after each decoded one."""

    seconds: float
    tops: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StepBytes:
    """Weight and cache bytes that a decoded token reads; None where the engine cannot say."""

    n_bytes: int | None


class Engine(Protocol):
    """An engine under test. A call's work must be finished when it returns."""

    def open(self, path: Path, threads: int | None, activations: str, kv: str) -> Opened: ...
    def start(self, n_ctx: int) -> None: ...
    def prefill(self, ids: list[int]) -> None: ...
    def decode(self, token: int) -> None: ...
    def top(self) -> int: ...
    def step_bytes(self, n_ctx: int) -> int | None: ...


class Side:
    """The worker: one engine and a clock.

    Parameters
    ----------
    engine : Engine
    clock : callable
        Seconds, monotonic.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.perf_counter) -> None:
        self.engine = engine
        self.clock = clock

    @property
    def commands(self) -> tuple[type[Command[Side, object]], ...]:
        return COMMANDS

    def timed(self, action: Callable[[], None]) -> float:
        start = self.clock()
        action()
        return self.clock() - start

    def decode(self, ids: tuple[int, ...]) -> Done:
        tops: list[int] = []

        def run() -> None:
            for token in ids:
                self.engine.decode(token)
                tops.append(self.engine.top())

        return Done(self.timed(run), tuple(tops))


@dataclass(frozen=True, slots=True)
class Open(Command[Side, Opened]):
    """Open a model file."""

    word = "open"
    path: Path
    threads: int | None
    activations: str
    kv: str

    def run(self, worker: Side) -> Opened:
        return worker.engine.open(self.path, self.threads, self.activations, self.kv)


@dataclass(frozen=True, slots=True)
class Start(Command[Side, Done]):
    """Begin a fresh timeline with room for `n_ctx` tokens."""

    word = "start"
    n_ctx: int

    def run(self, worker: Side) -> Done:
        return Done(worker.timed(lambda: worker.engine.start(self.n_ctx)))


@dataclass(frozen=True, slots=True)
class Prefill(Command[Side, Done]):
    """Append tokens in one go."""

    word = "prefill"
    ids: tuple[int, ...]

    def run(self, worker: Side) -> Done:
        return Done(worker.timed(lambda: worker.engine.prefill(list(self.ids))))


@dataclass(frozen=True, slots=True)
class Decode(Command[Side, Done]):
    """Append tokens one by one, with the likeliest one after each."""

    word = "decode"
    ids: tuple[int, ...]

    def run(self, worker: Side) -> Done:
        return worker.decode(self.ids)


@dataclass(frozen=True, slots=True)
class BytesAt(Command[Side, StepBytes]):
    """How much a decoded token reads at a context."""

    word = "bytes"
    n_ctx: int

    def run(self, worker: Side) -> StepBytes:
        return StepBytes(worker.engine.step_bytes(self.n_ctx))


COMMANDS: tuple[type[Command[Side, object]], ...] = (Open, Start, Prefill, Decode, BytesAt)


class Process:
    """The parent's end of a side: a timed process and what its engine said when it opened.

    Parameters
    ----------
    worker : str
        'module:function' that makes a `Side`.
    name : str
        What errors call it.

    Raises
    ------
    BackendError
        Of every method: when the process ended or did not answer.
    EngineError
        Of every method: as the engine reported it.
    """

    def __init__(self, worker: str, name: str) -> None:
        self.name = name
        self._child = Child(worker)
        self._opened: Opened | None = None

    @property
    def opened(self) -> Opened:
        assert self._opened is not None, "open was not called"
        return self._opened

    @property
    def threads(self) -> int:
        return self.opened.threads

    @property
    def pid(self) -> int | None:
        return self._child.pid

    def open(self, path: Path, threads: int | None, activations: str, kv: str) -> Opened:
        self._opened = self._ask(Open(path, threads, activations, kv))
        return self._opened

    def start(self, n_ctx: int) -> None:
        self._ask(Start(n_ctx))

    def prefill(self, ids: list[int]) -> float:
        """Seconds that appending the tokens took."""
        return self._ask(Prefill(tuple(ids))).seconds

    def decode(self, ids: list[int]) -> Done:
        return self._ask(Decode(tuple(ids)))

    def step_bytes(self, n_ctx: int) -> int | None:
        return self._ask(BytesAt(n_ctx)).n_bytes

    def close(self) -> None:
        """End the process; safe to call twice."""
        self._child.kill()

    def _ask(self, command: Command[Side, R]) -> R:
        try:
            return self._child.request(PATIENCE, command)
        except ChildDied as death:
            raise BackendError(
                f"{self.name}: expected an answer to '{command.word}', found {death}"
            ) from None
