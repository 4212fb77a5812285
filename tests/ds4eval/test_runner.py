"""The run: order, pause, jump, quit, failures, resume, pools; with a fake back end."""

from __future__ import annotations

import threading

import pytest

from ds4eval.answering.pool import Outcome
from ds4eval.control import Control
from ds4eval.events import Dropped, Ended, Finished, Notice, Opened, Started
from ds4eval.records.record import comparable
from ds4eval.records.replay import read_run
from ds4eval.records.store import RunStore
from ds4eval.run.runner import Recorder, Schedule, run_parallel, run_serial
from tests.ds4eval.fakes import CONFIG, SETTINGS, FakeBackend, jobs


def run(folder, todo, backend=None, control=None, trace=None):
    """All events of a serial run."""
    with RunStore.open(folder, CONFIG) as store:
        store.begin(todo, {})
        recorder = Recorder(store, SETTINGS, len(todo), trace)
        return list(run_serial(todo, backend or FakeBackend(), recorder, control or Control(), 99))


def samples_of(folder) -> dict:
    return {s.key: comparable(s) for s in read_run(folder).samples}


def test_next_is_the_first_pending_behind_the_last_and_wraps():
    schedule = Schedule(jobs(5), [2])
    assert [schedule.next().n, schedule.next().n] == [1, 3]
    assert schedule.next(jump=5).n == 5
    assert schedule.next().n == 4, "wrapped: 1, 2 and 3 are done"
    assert schedule.next() is None
    assert schedule.next(jump=2).n == 2, "a graded question can be asked again"


def test_every_question_is_asked_once_in_order_and_recorded(tmp_path):
    events = run(tmp_path / "a", jobs(7, repeats=2))
    done = [e.sample for e in events if isinstance(e, Finished)]
    assert [s.n for s in done] == list(range(1, 15))
    assert [s.repeat for s in done] == [0] * 7 + [1] * 7
    assert isinstance(events[0], Opened) and events[-1] == Ended("done")
    assert {s.state for s in done} == {"PASSED", "FAILED"}
    assert [s.n for s in read_run(tmp_path / "a").samples] == list(range(1, 15))


def test_repeats_and_questions_have_streams_of_their_own():
    streams = [job.stream for job in jobs(50, repeats=3)]
    assert len(set(streams)) == 150
    assert [j.stream for j in jobs(20)] == streams[:20], "the selection must not matter"


@pytest.mark.parametrize("cut", [1, 4, 6])
def test_stopped_run_goes_on_where_it_was_and_ends_like_an_unbroken_one(tmp_path, cut):
    todo = jobs(7)
    run(tmp_path / "whole", todo)
    control = Control()

    def stop_in(job, word):
        if job.n == cut and word == 3:
            control.quit()

    events = run(tmp_path / "cut", todo, FakeBackend(hook=stop_in), control)
    assert events[-1] == Ended("quit")
    stopped = [s for s in read_run(tmp_path / "cut").samples if not s.final]
    assert [(s.n, s.state, s.graded) for s in stopped] == [(cut, "STOPPED", False)]
    again = FakeBackend()
    events = run(tmp_path / "cut", todo, again)
    assert again.asked == [f"q{n:03d}" for n in range(cut, 8)], "nothing final is asked again"
    assert events[0].done.keys() == set(range(1, cut))
    assert samples_of(tmp_path / "cut") == samples_of(tmp_path / "whole")


def test_order_and_selection_change_no_record(tmp_path):
    todo = jobs(9)
    run(tmp_path / "all", todo)
    whole = samples_of(tmp_path / "all")
    from ds4eval.plan import make_jobs

    some = make_jobs(CONFIG, [todo[i].question for i in (7, 2, 4)], 1)
    run(tmp_path / "some", some)
    part = samples_of(tmp_path / "some")
    assert len(part) == 3 and all(whole[key] == value for key, value in part.items())


def test_jump_leaves_the_reply_and_comes_back_to_it(tmp_path):
    control = Control()

    def jump_in(job, word):
        if job.n == 2 and word == 2 and not jumped:
            jumped.append(1)
            control.jump(5)

    jumped: list[int] = []
    todo = jobs(6)
    events = run(tmp_path / "a", todo, FakeBackend(hook=jump_in), control)
    started = [e.n for e in events if isinstance(e, Started)]
    assert started == [1, 2, 5, 6, 2, 3, 4], "pending questions behind it, then wrapped"
    assert [e for e in events if isinstance(e, Dropped)] == [Dropped(2, "switched")]
    run(tmp_path / "b", todo)
    assert samples_of(tmp_path / "a") == samples_of(tmp_path / "b")


def test_asking_a_graded_question_again_and_stopping_keeps_its_answer(tmp_path):
    todo, control = jobs(3), Control()

    def again(job, word):
        if job.n == 3 and word == 1 and job.question.id not in seen:
            seen.add(job.question.id)
            control.jump(1)
        elif job.n == 1 and "q003" in seen and word == 2:
            control.quit()

    seen: set[str] = set()
    run(tmp_path / "a", todo, FakeBackend(hook=again), control)
    first = next(s for s in read_run(tmp_path / "a").samples if s.n == 1)
    assert first.final and first.graded


def test_paused_run_makes_no_step_until_it_goes_on(tmp_path):
    control = Control()
    words: list[int] = []

    def count(job, word):
        words.append(word)
        if len(words) == 4:
            control.pause(True)
            threading.Timer(0.25, lambda: (seen.append(len(words)), control.pause(False))).start()

    seen: list[int] = []
    events = run(tmp_path / "a", jobs(2), FakeBackend(hook=count), control)
    # The hook runs before the word that is then held back.
    assert seen == [4] and events[-1] == Ended("done")


def test_broken_question_costs_itself_and_is_tried_by_the_next_run(tmp_path):
    events = run(tmp_path / "a", jobs(5), FakeBackend({"q002": "error"}))
    assert events[-1] == Ended("done")
    assert [s.state for s in read_run(tmp_path / "a").samples][1] == "ERROR"
    again = FakeBackend()
    run(tmp_path / "a", jobs(5), again)
    assert again.asked == ["q002"]
    assert all(s.final for s in read_run(tmp_path / "a").samples)


def test_three_failures_in_a_row_end_the_run(tmp_path):
    script = {f"q{n:03d}": "error" for n in (2, 4, 5, 6)}
    events = run(tmp_path / "a", jobs(9), FakeBackend(script))
    assert events[-1].why == "failed" and "in a row" in events[-1].message
    assert len(read_run(tmp_path / "a").samples) == 6


def test_truncated_and_incomplete_are_told_apart(tmp_path):
    script = {"q001": "limit", "q002": "thought</think>\nI do not know"}
    run(tmp_path / "a", jobs(3), FakeBackend(script))
    states = [s.state for s in read_run(tmp_path / "a").samples]
    assert states[:2] == ["TRUNCATED", "INCOMPLETE"]


class FakePool:
    """Two workers; answers come in reverse, and some workers are lost."""

    def __init__(self, lose=()) -> None:
        self.lose = list(lose)
        self.running: list = []
        self.closed = False
        self.backend = FakeBackend()

    def free(self) -> int:
        return 2 - len(self.running)

    def submit(self, job) -> int:
        self.running.append(job)
        return len(self.running)

    def poll(self, timeout):
        job = self.running.pop()
        if job.question.id in self.lose:
            self.lose.remove(job.question.id)
            return [Outcome(job.n, 1, lost="worker 1 was ended by SIGKILL")]
        answering = self.backend.answer(job)
        out = []
        while True:
            try:
                out.append(Outcome(job.n, 1, event=next(answering)))
            except StopIteration as end:
                return [*out, Outcome(job.n, 1, answer=end.value)]

    def close(self) -> None:
        self.closed = True


def parallel(folder, todo, pool, control=None):
    with RunStore.open(folder, CONFIG) as store:
        store.begin(todo, {})
        recorder = Recorder(store, SETTINGS, len(todo))
        return list(run_parallel(todo, pool, recorder, control or Control(), 99))


def test_pool_makes_the_records_of_a_serial_run(tmp_path):
    todo = jobs(8)
    run(tmp_path / "serial", todo)
    pool = FakePool()
    events = parallel(tmp_path / "pool", todo, pool)
    assert events[-1] == Ended("done") and pool.closed
    assert samples_of(tmp_path / "pool") == samples_of(tmp_path / "serial")


def test_lost_worker_costs_only_its_question_which_is_asked_again(tmp_path):
    pool = FakePool(lose=["q003", "q003"])
    events = parallel(tmp_path / "a", jobs(6), pool)
    assert sum(isinstance(e, Notice) for e in events) == 2
    done = read_run(tmp_path / "a").samples
    assert len(done) == 6 and all(s.final for s in done)
    assert [s.attempt for s in done] == [1, 1, 3, 1, 1, 1]


def test_question_that_kills_three_workers_is_given_up(tmp_path):
    pool = FakePool(lose=["q003"] * 3)
    parallel(tmp_path / "a", jobs(4), pool)
    states = [s.state for s in read_run(tmp_path / "a").samples]
    assert states[2] == "ERROR" and "ERROR" not in states[:2] + states[3:]


def test_quitting_a_pool_drops_what_is_running(tmp_path):
    control = Control()
    pool = FakePool()
    before = pool.poll

    def poll(timeout):
        if len(pool.backend.asked) == 3:
            control.quit()
            return []
        return before(timeout)

    pool.poll = poll
    events = parallel(tmp_path / "a", jobs(8), pool, control)
    assert events[-1] == Ended("quit") and pool.closed
    assert len(read_run(tmp_path / "a").samples) == 3


def test_jump_with_a_pool_puts_the_question_next_in_line(tmp_path):
    control = Control()
    control.jump(7)
    events = parallel(tmp_path / "a", jobs(8), FakePool(), control)
    assert next(e.n for e in events if isinstance(e, Started)) == 7
    assert sorted(e.n for e in events if isinstance(e, Started)) == list(range(1, 9))
