"""Batches made ahead of time by worker processes, in an order that does not depend on them."""

from __future__ import annotations

import multiprocessing as mp
import queue
from dataclasses import dataclass
from typing import Any

import numpy as np

_WAIT_SECONDS = 120  # a worker starts in seconds; longer means that it died
_AHEAD = 6  # batches that a worker may be ahead


@dataclass(frozen=True)
class Request:
    """A kind of batch: mix of documents, rows, tokens per row."""

    stage: str
    n_row: int
    n_col: int


def make_batch(request: Request, seed: int, number: int) -> np.ndarray:
    """Batch `number` of a stage.

    Returns
    -------
    uint16 array of shape (3, n_row, n_col)
        Token ids, classes and document numbers.
    """
    from engine.nano.corpus import Mix, rows

    # Two mixes share no documents, whichever of them a number falls into.
    mixed = np.random.SeedSequence([seed, number, *request.stage.encode()]).generate_state(1)
    made = rows(int(mixed[0]), request.n_row, request.n_col, Mix.stage(request.stage))
    return np.stack([np.asarray(part, np.uint16) for part in (made.ids, made.cls, made.doc)])


def _work(requests: Any, results: Any, seed: int, worker: int, n_worker: int) -> None:
    request, first = requests.get()
    number = first + (worker - first) % n_worker
    while True:
        results.put((request, number, make_batch(request, seed, number)))
        number += n_worker
        try:
            request, first = requests.get_nowait()
            number = first + (worker - first) % n_worker
        except queue.Empty:
            pass


class Feed:
    """Batches by number; number n comes from worker n modulo their count.

    Parameters
    ----------
    seed : int
    n_worker : int
        0: made in this process, on demand.
    """

    def __init__(self, seed: int, n_worker: int) -> None:
        self.seed = seed
        self.n_worker = n_worker
        self._request: Request | None = None
        context = mp.get_context("spawn")
        self._in = [context.Queue() for _ in range(n_worker)]
        self._out = [context.Queue(_AHEAD) for _ in range(n_worker)]
        self._workers = [
            context.Process(
                target=_work, args=(self._in[i], self._out[i], seed, i, n_worker), daemon=True
            )
            for i in range(n_worker)
        ]
        for worker in self._workers:
            worker.start()

    def batch(self, request: Request, number: int) -> np.ndarray:
        """Batch `number`; numbers must rise by 1. See `make_batch`.

        Raises
        ------
        RuntimeError
            If a worker died.
        """
        if not self.n_worker:
            return make_batch(request, self.seed, number)
        if request != self._request:
            self._request = request
            for wishes in self._in:
                wishes.put((request, number))
        results = self._out[number % self.n_worker]
        while True:
            try:
                found, at, batch = results.get(timeout=_WAIT_SECONDS)
            except queue.Empty:
                raise RuntimeError(
                    f"feed: expected batch {number} within {_WAIT_SECONDS} s, found none"
                ) from None
            # What was made before the stage changed is dropped.
            if found == request and at == number:
                return batch

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.join()
