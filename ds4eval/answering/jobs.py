"""Answers questions side by side in processes of this machine.

A worker that dies costs the question that it was answering, which is then asked again.

A worker sends `Ready` once its model is open, then for each job the events of its reply and one
`Answer`. `Failed`, and silence, mean that it could not open the model.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

from ds4eval.answering.pool import AnsweringBackend, Outcome
from ds4eval.events import Event, Text
from ds4eval.plan import Job
from ds4eval.records.answer import Answer
from engine.errors import BackendError, EngineError

SEND_EVERY_S = 0.2
JOIN_S = 5.0
Spec = TypeVar("Spec")


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker's model is open."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker's model cannot be opened."""

    error: EngineError


Message = Ready | Failed | Event | Answer


@dataclass(slots=True)
class _Worker:
    number: int
    process: BaseProcess
    conn: Connection
    slot: int = 0
    ready: bool = False
    job: Job | None = None


class ProcessPool(Generic[Spec]):
    """Workers that hold a model each.

    Parameters
    ----------
    spec
        What `factory` makes a back end of; picklable.
    n : int
        Workers.
    factory : callable
        A module-level function, since workers import it by name.
    place : callable, optional
        ``place(spec, i)``: what the worker at place i of n gets; one that takes the place of a
        lost worker gets the same (its device).
    """

    def __init__(
        self,
        spec: Spec,
        n: int,
        factory: Callable[[Spec], AnsweringBackend],
        place: Callable[[Spec, int], Spec] = lambda spec, i: spec,
    ) -> None:
        self._spec = spec
        self._place = place
        self._factory = factory
        self._context = multiprocessing.get_context("spawn")
        self._made = 0
        self._unready_deaths = 0
        self._closed = False
        self._workers: list[_Worker] = []
        for slot in range(n):
            self._start(slot)

    def _start(self, slot: int) -> None:
        ours, theirs = self._context.Pipe()
        self._made += 1
        process = self._context.Process(
            target=_serve,
            args=(theirs, self._factory, self._place(self._spec, slot)),
            daemon=True,
        )
        process.start()
        theirs.close()
        self._workers.append(_Worker(self._made, process, ours, slot))

    def free(self) -> int:
        return sum(worker.job is None for worker in self._workers)

    def submit(self, job: Job) -> int:
        # A worker that has its model is asked before one that is still loading.
        idle = [worker for worker in self._workers if worker.job is None]
        worker = max(idle, key=lambda w: w.ready)
        worker.job = job
        if worker.ready:
            self._send(worker, job)
        return worker.number

    def _send(self, worker: _Worker, job: Job) -> None:
        # If it died, poll finds out and gives the job back.
        with contextlib.suppress(OSError):
            worker.conn.send(job)

    def poll(self, timeout: float) -> list[Outcome]:
        """See `ds4eval.answering.pool.Pool`.

        Raises
        ------
        EngineError
            If a worker cannot open the model.
        """
        outcomes: list[Outcome] = []
        told = wait([worker.conn for worker in self._workers], timeout)
        for worker in [one for one in self._workers if one.conn in told]:
            try:
                while worker.conn.poll():
                    self._take(worker, worker.conn.recv(), outcomes)
            except (EOFError, OSError):
                self._lost(worker, outcomes)
        return outcomes

    def _take(self, worker: _Worker, message: Message, outcomes: list[Outcome]) -> None:
        if isinstance(message, Failed):
            raise message.error
        if isinstance(message, Ready):
            worker.ready = True
            self._unready_deaths = 0
            if worker.job is not None:
                self._send(worker, worker.job)
        elif worker.job is None:
            return
        elif isinstance(message, Answer):
            n, worker.job = worker.job.n, None
            outcomes.append(Outcome(n, worker.number, answer=message))
        else:
            outcomes.append(Outcome(worker.job.n, worker.number, event=message))

    def _lost(self, worker: _Worker, outcomes: list[Outcome]) -> None:
        worker.process.join(JOIN_S)
        self._workers.remove(worker)
        worker.conn.close()
        how = _how(worker.process.exitcode)
        if not worker.ready:
            self._unready_deaths += 1
            if self._unready_deaths >= 2:
                raise BackendError(f"worker: expected it to open the model, found it {how}")
        if worker.job is not None:
            outcomes.append(
                Outcome(worker.job.n, worker.number, lost=f"worker {worker.number} {how}")
            )
        self._start(worker.slot)

    def close(self) -> None:
        """End all workers at once; what they were doing is dropped."""
        if self._closed:
            return
        self._closed = True
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(JOIN_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.conn.close()


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"
    return f"ended with status {code}"


def _serve(conn: Connection, factory: Callable[[Spec], AnsweringBackend], spec: Spec) -> None:
    """A worker's life: open, answer, leave when the parent is gone."""
    # Ctrl-C reaches the whole group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        try:
            backend = factory(spec)
        except EngineError as error:
            conn.send(Failed(error))
            return
        conn.send(Ready())
        while True:
            job = conn.recv()
            conn.send(_answer(conn, backend, job))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)


def _answer(conn: Connection, backend: AnsweringBackend, job: Job) -> Answer:
    """One answer; text goes to the parent in pieces, a few times a second."""
    answering = backend.answer(job, lambda: False)
    held: Text | None = None
    sent = time.monotonic()
    while True:
        try:
            event = next(answering)
        except StopIteration as end:
            if held is not None:
                conn.send(held)
            answer: Answer = end.value
            return answer
        if not isinstance(event, Text):
            conn.send(event)
            continue
        if held is not None and held.thinking != event.thinking:
            conn.send(held)
            held = None
        held = event if held is None else joined(held, event)
        if time.monotonic() - sent >= SEND_EVERY_S:
            conn.send(held)
            held, sent = None, time.monotonic()


def joined(first: Text, second: Text) -> Text:
    """Two pieces of a reply as one."""
    return replace(
        second,
        text=first.text + second.text,
        tokens=first.tokens + second.tokens,
        seconds=first.seconds + second.seconds,
    )
