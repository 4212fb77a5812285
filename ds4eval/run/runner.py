"""Runs the jobs: decides which question is next, obeys the user, records answers, yields events.

    pending --asked--> running --answer--> recorded          (next: first pending behind it)
                       running --jump-->   pending again     (next: the one jumped to)
                       running --quit-->   recorded STOPPED  (end)

Serial runs answer in this process; parallel ones hand jobs to a pool of workers. Both make the
same records, since nothing in a reply depends on order or place.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace

from ds4eval.answering.pool import AnsweringBackend, Pool
from ds4eval.control import POLL_S, Control
from ds4eval.events import Dropped, Ended, Event, Finished, Notice, Opened, Started
from ds4eval.exchange.trace import TraceWriter
from ds4eval.plan import Job, ReplySettings
from ds4eval.records.answer import Answer
from ds4eval.records.record import ERROR, STOPPED, Sample
from ds4eval.records.samples import make_sample
from ds4eval.records.store import RunStore, utc_now
from ds4eval.run.continued import Retry, done_jobs

# After this many failures in a row the fault is not the questions'.
MAX_ERRORS = 3
# Of failures that say nothing of other questions, so many in a row say something after all.
MAX_ERRORS_OF_QUESTIONS = 20
# A question whose worker dies this often is given up.
MAX_ATTEMPTS = 3


class Schedule:
    """Which job is next: the first pending one behind the last, wrapping.

    Parameters
    ----------
    jobs : sequence of Job
        Numbered from 1 in order.
    done : iterable of int
        Numbers that need no answer.
    """

    def __init__(self, jobs: Sequence[Job], done: Sequence[int] = ()) -> None:
        self.jobs = list(jobs)
        self.pending = {job.n for job in jobs} - set(done)
        self._last = 0

    def next(self, jump: int | None = None) -> Job | None:
        if jump is not None and 1 <= jump <= len(self.jobs):
            self.pending.discard(jump)
            self._last = jump
            return self.jobs[jump - 1]
        if not self.pending:
            return None
        behind = [n for n in self.pending if n > self._last]
        n = min(behind or self.pending)
        self.pending.discard(n)
        self._last = n
        return self.jobs[n - 1]

    def put_back(self, n: int) -> None:
        """A job whose answer did not come about is pending again."""
        self.pending.add(n)

    def prefer(self, n: int) -> None:
        """Make job n the next one."""
        self.pending.add(n)
        self._last = n - 1


@dataclass(slots=True)
class Recorder:
    """Turns answers into durable records, and into lines of the trace where one is written."""

    store: RunStore
    settings: ReplySettings
    total: int
    trace: TraceWriter | None = None
    now: Callable[[], str] = utc_now
    headline: str = "strict"
    errors: int = field(default=0)
    in_a_row: int = field(default=0)
    retry: Retry | None = None

    def done(self, jobs: Sequence[Job]) -> dict[int, Sample]:
        """Samples that need no answer, by job number."""
        return done_jobs(jobs, self.store, self.retry)

    def record(self, job: Job, answer: Answer, started: str, worker: int = 0) -> Sample:
        sample = make_sample(
            job,
            answer,
            self.settings.sampling,
            started,
            self.store.session,
            worker,
            headline=self.headline,
        )
        if self.retry is not None:
            sample = replace(sample, budget_tokens=self.retry.tokens)
        self.store.append(sample)
        if self.trace is not None:
            self.trace.case(job, self.total, sample)
        self.store.publish()
        failed = sample.stop == ERROR
        self.in_a_row = self.in_a_row + 1 if failed else 0
        if not failed:
            self.errors = 0
        elif not answer.of_question:
            self.errors += 1
        return sample

    def switched(self, job: Job, answer: Answer) -> None:
        if self.trace is not None:
            sample = make_sample(job, answer, self.settings.sampling, self.now())
            self.trace.case(job, self.total, sample, switched=True)

    @property
    def hopeless(self) -> bool:
        return self.errors >= MAX_ERRORS or self.in_a_row >= MAX_ERRORS_OF_QUESTIONS


def run_serial(
    jobs: Sequence[Job], backend: AnsweringBackend, recorder: Recorder, control: Control, ctx: int
) -> Iterator[Event]:
    """Answer every job that has no final record.

    Yields
    ------
    Event
        `Opened` first, `Ended` last.
    """
    done = recorder.done(jobs)
    schedule = Schedule(jobs, list(done))
    yield Opened(list(jobs), done, ctx, recorder.settings.budget.tokens)
    while True:
        control.wait_while_paused()
        if control.quitting:
            yield Ended("quit")
            return
        job = schedule.next(control.take_jump())
        if job is None:
            yield Ended("done")
            return
        yield Started(job.n)
        started = recorder.now()
        answer = yield from _relay(backend.answer(job, control.interrupts), control)
        if answer.stop == STOPPED and not control.quitting:
            recorder.switched(job, answer)
            schedule.put_back(job.n)
            yield Dropped(job.n, "switched")
            continue
        sample = recorder.record(job, answer, started)
        yield Finished(job.n, sample)
        if recorder.hopeless:
            yield Ended("failed", f"{recorder.in_a_row} questions in a row failed: {sample.error}")
            return


def _relay(
    answering: Generator[Event, None, Answer], control: Control
) -> Generator[Event, None, Answer]:
    """Pass events on; between them a pause holds the reply."""
    while True:
        try:
            event = next(answering)
        except StopIteration as end:
            answer: Answer = end.value
            return answer
        yield event
        control.wait_while_paused()


def run_parallel(
    jobs: Sequence[Job], pool: Pool, recorder: Recorder, control: Control, ctx: int
) -> Iterator[Event]:
    """As `run_serial`, over a pool. A job whose worker is lost is given out again.

    Raises
    ------
    EngineError
        If workers cannot be started at all.
    """
    done = recorder.done(jobs)
    schedule = Schedule(jobs, list(done))
    running: dict[int, tuple[Job, str]] = {}
    attempts: dict[int, int] = {}
    yield Opened(list(jobs), done, ctx, recorder.settings.budget.tokens)
    try:
        while True:
            if control.quitting:
                for n in running:
                    yield Dropped(n, "stopped")
                yield Ended("quit")
                return
            jump = control.take_jump()
            while not control.paused and pool.free() > 0:
                if jump in running:
                    jump = None
                job = schedule.next(jump)
                jump = None
                if job is None:
                    break
                attempts[job.n] = attempts.get(job.n, 0) + 1
                job = replace(job, attempt=attempts[job.n])
                running[job.n] = (job, recorder.now())
                yield Started(job.n, pool.submit(job))
            if jump is not None and jump not in running:
                # No worker is free: the question is next in line.
                schedule.prefer(jump)
            if not running and not schedule.pending:
                yield Ended("done")
                return
            for outcome in pool.poll(POLL_S):
                if outcome.event is not None:
                    yield outcome.event
                    continue
                job, started = running.pop(outcome.n)
                if outcome.answer is None and attempts[job.n] < MAX_ATTEMPTS:
                    schedule.put_back(job.n)
                    yield Notice(f"question {job.n}: {outcome.lost}; it is asked again")
                    yield Dropped(job.n, outcome.lost)
                    continue
                answer = outcome.answer or Answer(ERROR, error=outcome.lost)
                sample = recorder.record(job, answer, started, outcome.worker)
                yield Finished(job.n, sample)
                if recorder.hopeless:
                    yield Ended(
                        "failed", f"{recorder.in_a_row} questions in a row failed: {sample.error}"
                    )
                    return
    finally:
        pool.close()
