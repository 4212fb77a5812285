"""A pool of threads over one back end that waits for others, such as a server."""

from __future__ import annotations

import contextlib
import queue
import threading

from ds4eval.answering.pool import AnsweringBackend, Outcome
from ds4eval.plan import Job


class ThreadPool:
    """Several connections at once; see `ds4eval.answering.pool.Pool`."""

    def __init__(self, backend: AnsweringBackend, n: int) -> None:
        self._backend = backend
        self._n = n
        self._busy: dict[int, int] = {}
        self._out: queue.Queue[Outcome] = queue.Queue()
        self._stop = threading.Event()

    def free(self) -> int:
        return self._n - len(self._busy)

    def submit(self, job: Job) -> int:
        worker = next(i for i in range(1, self._n + 1) if i not in self._busy.values())
        self._busy[job.n] = worker
        threading.Thread(target=self._work, args=(job, worker), daemon=True).start()
        return worker

    def _work(self, job: Job, worker: int) -> None:
        try:
            answering = self._backend.answer(job, self._stop.is_set)
            while True:
                try:
                    self._out.put(Outcome(job.n, worker, event=next(answering)))
                except StopIteration as end:
                    self._out.put(Outcome(job.n, worker, answer=end.value))
                    return
        except Exception as error:
            self._out.put(Outcome(job.n, worker, lost=f"{type(error).__name__}: {error}"))

    def poll(self, timeout: float) -> list[Outcome]:
        found = []
        with contextlib.suppress(queue.Empty):
            found.append(self._out.get(timeout=timeout))
            while True:
                found.append(self._out.get_nowait())
        for outcome in found:
            if outcome.event is None:
                self._busy.pop(outcome.n, None)
        return found

    def close(self) -> None:
        self._stop.set()
