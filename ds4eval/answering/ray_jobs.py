"""Spreads questions over a Ray cluster, with one engine in each actor.

An actor that is lost costs the question that it was answering, which is then asked again.

Workers must see the model file under the same path, and have this package installed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Generic, TypeVar

from ds4eval.answering.pool import AnsweringBackend, Outcome
from ds4eval.plan import Job
from ds4eval.records.answer import Answer
from engine.errors import BackendError, EngineError, OptionError

CPUS = 1
Spec = TypeVar("Spec")


class Actor(Generic[Spec]):
    """A back end on some machine of the cluster; made by Ray."""

    def __init__(self, spec: Spec, factory: Callable[[Spec], AnsweringBackend]) -> None:
        options = getattr(spec, "options", None)
        if getattr(options, "backend", "") == "cuda":
            # Ray shows an actor the GPU that it was given and no other: there, that is number 0.
            spec = replace(spec, options=replace(options, device=0))  # type: ignore[type-var]
        self._backend = factory(spec)

    def answer(self, job: Job) -> Answer:
        """The whole answer to one job; its events stay here."""
        answering = self._backend.answer(job, lambda: False)
        while True:
            try:
                next(answering)
            except StopIteration as end:
                answer: Answer = end.value
                return answer


class RayPool(Generic[Spec]):
    """Actors as a pool; see `ds4eval.answering.pool.Pool`.

    Parameters
    ----------
    spec : EngineSpec
    address : str
        'local' for a cluster of this machine alone, 'auto', or host:port.
    n : int
        Actors; 1 means as many as the cluster has places for.

    Raises
    ------
    BackendError
        If there is no such cluster.
    """

    def __init__(
        self,
        spec: Spec,
        address: str,
        n: int,
        factory: Callable[[Spec], AnsweringBackend],
    ) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise OptionError("--ray: expected the package 'ray', found none") from None
        self._ray = ray
        self._spec, self._factory = spec, factory
        self._started = not ray.is_initialized()
        try:
            if self._started:
                local: dict[str, Any] = {"include_dashboard": False, "num_cpus": max(n, 1)}
                where = local if address == "local" else {"address": address}
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise BackendError(
                f"--ray: expected a cluster at {address!r}, found {type(error).__name__}: {error}"
            ) from None
        if n == 1 and address != "local":
            there = ray.cluster_resources()
            n = max(int(there.get("CPU", 1)) // self._cpus(), 1)
            if self._gpus():
                n = max(min(n, int(there.get("GPU", 0))), 1)
        if self._gpus() and not ray.cluster_resources().get("GPU"):
            raise BackendError(
                "--ray: expected a cluster with GPUs for --backend cuda, found one without"
            )
        self._actors: dict[int, Any] = {}
        self._made = 0
        self._idle: list[int] = []
        self._running: dict[Any, tuple[int, int]] = {}
        self._failures = 0
        for _ in range(n):
            self._start()

    def _cpus(self) -> int:
        return getattr(getattr(self._spec, "options", None), "threads", None) or CPUS

    def _gpus(self) -> int:
        """GPUs of an actor: Ray deals them out, and shows each actor its own alone."""
        return int(getattr(getattr(self._spec, "options", None), "backend", "") == "cuda")

    def _start(self) -> None:
        asked = {"num_cpus": self._cpus(), "num_gpus": self._gpus()}
        remote = self._ray.remote(**asked, max_restarts=0)(Actor)
        self._made += 1
        self._actors[self._made] = remote.remote(self._spec, self._factory)
        self._idle.append(self._made)

    def free(self) -> int:
        return len(self._idle)

    def submit(self, job: Job) -> int:
        worker = self._idle.pop(0)
        self._running[self._actors[worker].answer.remote(job)] = (worker, job.n)
        return worker

    def poll(self, timeout: float) -> list[Outcome]:
        """See `ds4eval.answering.pool.Pool`.

        Raises
        ------
        EngineError
            If an actor cannot open the model.
        """
        if not self._running:
            time.sleep(timeout)
            return []
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout)
        outcomes = []
        for reference in ready:
            worker, n = self._running.pop(reference)
            try:
                answer = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                self._idle.append(worker)
                cause = error.cause if isinstance(error.cause, Exception) else error
                outcomes.append(Outcome(n, worker, lost=f"actor {worker} failed: {cause}"[:300]))
            except self._ray.exceptions.RayActorError as error:
                outcomes += self._lost(worker, n, error)
            else:
                self._failures = 0
                self._idle.append(worker)
                outcomes.append(Outcome(n, worker, answer=answer))
        return outcomes

    def _lost(self, worker: int, n: int, error: Exception) -> list[Outcome]:
        del self._actors[worker]
        self._failures += 1
        if self._failures > 2 * (len(self._actors) + 1):
            cause = getattr(error, "cause", None)
            if isinstance(cause, EngineError):
                raise cause
            raise BackendError(f"--ray: expected actors that live, found: {error}"[:500])
        self._start()
        return [Outcome(n, worker, lost=f"actor {worker} was lost")]

    def close(self) -> None:
        """End the actors, and the local cluster if this pool began it."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()
        if self._started:
            self._ray.shutdown()
