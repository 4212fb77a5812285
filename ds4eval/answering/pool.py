"""Declares the two forms in which questions are answered: one by one, or side by side in a pool.

The run (`ds4eval.run.runner`) knows only these protocols, not what stands behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from ds4eval.events import Event
from ds4eval.plan import Job, ReplySettings
from ds4eval.records.answer import Answer


class AnsweringBackend(Protocol):
    """Answers one job at a time; see `ds4eval.answering.local`."""

    def answer(self, job: Job, stop: Callable[[], bool]) -> Generator[Event, None, Answer]:
        """Yield what happens and return the answer; `stop` is asked before each step."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pool says about a job: an event on the way, its answer, or that it was lost."""

    n: int
    worker: int
    event: Event | None = None
    answer: Answer | None = None
    lost: str = ""


class Pool(Protocol):
    """Workers that answer jobs side by side: processes, threads or actors of a Ray cluster."""

    def free(self) -> int:
        """Jobs that could be given out now."""

    def submit(self, job: Job) -> int:
        """Give a job to a worker; its number."""

    def poll(self, timeout: float) -> list[Outcome]:
        """What happened, waiting at most `timeout` seconds for something."""

    def close(self) -> None:
        """End the workers; jobs in progress are dropped."""


@dataclass(frozen=True, slots=True)
class OneByOne:
    """Jobs are answered in this process, one after another."""

    backend: AnsweringBackend


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Jobs are answered by the workers of a pool."""

    pool: Pool


class Answerer(Protocol):
    """What answers the questions of a run, examined but not loaded.

    Attributes
    ----------
    name : str
        For people.
    identity : dict
        The model's part of a run's configuration.
    think : str
        Think mode that it can hold.
    ctx, longest : int
        Tokens of context, and of the longest prompt; 0 where it does not say.
    memory : str
        What the model and one session will take, for people; empty where this machine holds none.
    notices : tuple of str
        What the user should hear about the choice.
    """

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> dict[str, object]: ...
    @property
    def think(self) -> str: ...
    @property
    def memory(self) -> str: ...
    @property
    def ctx(self) -> int: ...
    @property
    def longest(self) -> int: ...
    @property
    def notices(self) -> tuple[str, ...]: ...

    def facts(self) -> dict[str, object]:
        """What the manifest says of it."""

    def opened(
        self, settings: ReplySettings, jobs: Sequence[Job]
    ) -> AbstractContextManager[OneByOne | SideBySide]:
        """Load it for these jobs; leaving the context releases it."""
