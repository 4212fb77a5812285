"""Workers in processes, threads and on Ray: the records of a serial run, whatever is lost."""

from __future__ import annotations

import os

import pytest

from ds4eval.answering.jobs import ProcessPool, joined
from ds4eval.answering.threads import ThreadPool
from ds4eval.control import Control
from ds4eval.events import Ended, Finished, Notice, Text
from ds4eval.records.replay import read_run
from engine.errors import BackendError, LayoutError
from tests.ds4eval import fakes
from tests.ds4eval.fakes import FakeBackend, jobs
from tests.ds4eval.test_runner import parallel, run, samples_of

pytestmark = pytest.mark.filterwarnings("error")


def test_two_processes_make_the_records_of_a_serial_run(tmp_path):
    run(tmp_path / "serial", jobs(10))
    pool = ProcessPool(("", "", 0.0), 2, fakes.make_fatal)
    events = parallel(tmp_path / "pool", jobs(10), pool)
    assert events[-1] == Ended("done")
    assert samples_of(tmp_path / "pool") == samples_of(tmp_path / "serial")
    texts = [e for e in events if isinstance(e, Text)]
    done = [e.sample for e in events if isinstance(e, Finished)]
    for one in done:
        said = "".join(t.text for t in texts if t.n == one.n)
        assert said.split() == one.output.split(), "every piece of text arrives, in order"


def test_killed_worker_costs_one_attempt_at_its_question(tmp_path):
    run(tmp_path / "serial", jobs(6))
    pool = ProcessPool((str(tmp_path / "once"), "q004", 0.0), 2, fakes.make_fatal)
    events = parallel(tmp_path / "pool", jobs(6), pool)
    notices = [e.line for e in events if isinstance(e, Notice)]
    assert len(notices) == 1 and "SIGKILL" in notices[0] and "question 4" in notices[0]
    assert samples_of(tmp_path / "pool") == samples_of(tmp_path / "serial")
    assert [s.attempt for s in read_run(tmp_path / "pool").samples] == [1, 1, 1, 2, 1, 1]


def test_question_that_kills_every_worker_becomes_an_error_and_the_rest_go_on(tmp_path):
    pool = ProcessPool(("", "q002", 0.0), 1, fakes.make_fatal)
    events = parallel(tmp_path / "pool", jobs(3), pool)
    assert events[-1] == Ended("done")
    states = {s.id: s.state for s in read_run(tmp_path / "pool").samples}
    assert states.pop("q002") == "ERROR"
    assert set(states.values()) <= {"PASSED", "FAILED"}


def test_workers_that_cannot_open_the_model_end_the_run_with_their_reason(tmp_path):
    with pytest.raises(LayoutError, match=r"fake\.gguf"):
        parallel(tmp_path / "a", jobs(2), ProcessPool(None, 1, fakes.refuse))
    with pytest.raises(BackendError, match="status 3"):
        parallel(tmp_path / "b", jobs(2), ProcessPool(None, 1, fakes.collapse))


def test_quitting_ends_workers_at_once(tmp_path):
    pool = ProcessPool(("", "", 30.0), 1, fakes.make_fatal)
    pids = [worker.process.pid for worker in pool._workers]
    control = Control()
    real = pool.poll

    def poll(timeout):
        control.quit()
        return real(timeout)

    pool.poll = poll
    events = parallel(tmp_path / "a", jobs(2), pool, control)
    assert events[-1] == Ended("quit")
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_threads_make_the_records_of_a_serial_run(tmp_path):
    run(tmp_path / "serial", jobs(9))
    events = parallel(tmp_path / "pool", jobs(9), ThreadPool(FakeBackend(), 3))
    assert events[-1] == Ended("done")
    assert samples_of(tmp_path / "pool") == samples_of(tmp_path / "serial")


def test_thread_that_breaks_gives_its_question_back(tmp_path):
    broken = []

    def once(job, word):
        if job.n == 2 and not broken:
            broken.append(1)
            raise RuntimeError("a bug")

    events = parallel(tmp_path / "a", jobs(4), ThreadPool(FakeBackend(hook=once), 2))
    assert any("a bug" in e.line for e in events if isinstance(e, Notice))
    assert all(s.final for s in read_run(tmp_path / "a").samples)


def test_pieces_of_a_reply_add_up():
    a, b = Text(1, "x", True, 1, 1, 9, 8, 0.5), Text(1, "y", True, 2, 3, 9, 8, 0.25)
    assert joined(a, b) == Text(1, "xy", True, 3, 3, 9, 8, 0.75)


@pytest.mark.slow
def test_ray_actors_make_the_records_of_a_serial_run_and_may_die(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from ds4eval.answering.ray_jobs import RayPool

    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    run(tmp_path / "serial", jobs(6))
    pool = RayPool((str(tmp_path / "once"), "q004", 0.0), "local", 2, fakes.make_fatal)
    events = parallel(tmp_path / "pool", jobs(6), pool)
    assert events[-1] == Ended("done")
    assert samples_of(tmp_path / "pool") == samples_of(tmp_path / "serial")
    attempts = {s.id: s.attempt for s in read_run(tmp_path / "pool").samples}
    assert attempts.pop("q004") == 2 and set(attempts.values()) == {1}
