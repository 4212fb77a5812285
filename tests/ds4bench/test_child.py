"""The parent's end: what a dead, silent or talkative worker turns into."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from ds4bench.worker.child import _POLL_S, Child, ChildDied, Interrupted, worker_environment
from engine.errors import EngineError, LayoutError
from tests.ds4bench.fakes import SPEC


class Odd:
    """A worker whose commands misbehave; loaded in the child by name."""

    def pid(self):
        return {"pid": os.getpid()}

    def echo(self, text):
        return {"text": text}

    def die(self, name):
        os.kill(os.getpid(), name if isinstance(name, int) else getattr(signal, name))
        time.sleep(10)

    def leave(self, status):
        print("last words", file=sys.stderr)
        sys.stderr.flush()
        os._exit(status)

    def chatter(self):
        print("a library talks on stdout")
        os.write(1, b"and writes to descriptor 1\n")
        return {}

    def sleep(self, seconds, at_its_end=""):
        time.sleep(seconds)
        if at_its_end:
            open(at_its_end, "w").close()
        return {}

    def fail(self):
        raise LayoutError("blk.0: expected x, found y")

    def bug(self):
        return {}["missing"]

    def exhausted(self):
        raise MemoryError

    def touch_truncated_mapping(self, path):
        import mmap

        with open(path, "r+b") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            file.truncate(0)
            return {"byte": mapped[8192]}


ODD = "tests.ds4bench.test_child:Odd"


@pytest.fixture
def child():
    with Child(ODD) as one:
        yield one


def test_replies_round_trip_large_and_odd_text(child):
    text = "é\n\u2028\x00\U0001f600" + "x" * 200_000
    assert child.request(10, "echo", text=text)["text"] == text
    assert child.starts == 1 and child.pid == child.request(10, "pid")["pid"]


@pytest.mark.parametrize(
    ("name", "status"),
    [("SIGSEGV", "crashed_segv"), ("SIGBUS", "crashed_bus"), ("SIGKILL", "crashed_oom"),
     ("SIGABRT", "crashed_abort"), ("SIGFPE", "crashed_other")],
)  # fmt: skip
def test_signals_become_statuses_and_the_next_request_a_new_process(child, name, status):
    with pytest.raises(ChildDied, match=name) as death:
        child.request(10, "die", name=name)
    assert death.value.status == status
    assert child.pid is None
    assert child.request(10, "echo", text="back")["text"] == "back"
    assert child.starts == 2


def test_a_signal_without_a_name_is_a_crash_too(child):
    number = signal.SIGRTMIN + 3
    with pytest.raises(ChildDied, match=f"ended by signal {number}") as death:
        child.request(10, "die", name=number)
    assert death.value.status == "crashed_other"


def test_exit_status_and_last_words_are_told(child):
    with pytest.raises(ChildDied, match="status 7: last words") as death:
        child.request(10, "leave", status=7)
    assert death.value.status == "crashed_other"


def test_a_file_truncated_under_its_mapping_costs_the_child_only(child, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(bytes(1 << 16))
    with pytest.raises(ChildDied) as death:
        child.request(10, "touch_truncated_mapping", path=str(path))
    assert death.value.status == "crashed_bus"


def test_silence_is_a_timeout_and_the_process_is_gone(child, tmp_path):
    pid = child.request(10, "pid")["pid"]
    at_its_end = tmp_path / "at its end"
    with pytest.raises(ChildDied, match="within") as death:
        child.request(0.5, "sleep", seconds=60, at_its_end=str(at_its_end))
    assert death.value.status == "timeout"
    assert not at_its_end.exists(), "the answer was waited for"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_stop_now_interrupts_a_request(child):
    child.request(10, "pid")
    child.stop_now = lambda: True
    with pytest.raises(Interrupted):
        child.request(60, "sleep", seconds=60)
    assert child.pid is None


def test_prints_do_not_disturb_replies(child):
    assert child.request(10, "chatter") == {}
    assert child.request(10, "echo", text="x")["text"] == "x"


def test_errors_keep_type_text_and_exit_code(child):
    with pytest.raises(LayoutError, match=r"blk\.0: expected x, found y") as failure:
        child.request(10, "fail")
    assert failure.value.exit_code == 3
    with pytest.raises(EngineError, match="KeyError") as failure:
        child.request(10, "bug")
    assert "in bug" in failure.value.worker_trace
    with pytest.raises(EngineError, match="memory"):
        child.request(10, "exhausted")
    assert child.starts == 1, "an error is not a death"


def test_ticks_while_waiting(child):
    child.request(10, "pid")
    seen = []
    child.tick = seen.append
    child.request(600, "sleep", seconds=0.6)
    # At least at the start and once in 0.6 s; each but the last waits _POLL_S after the one before.
    assert len(seen) >= 2
    assert all(later - earlier >= 0.9 * _POLL_S for earlier, later in itertools.pairwise(seen))


def test_worker_dies_with_its_parent(tmp_path):
    code = (
        "import sys, time\n"
        "from ds4bench.worker.child import Child\n"
        f"c = Child({ODD!r}); print(c.request(10, 'pid')['pid'], flush=True)\n"
        "c.request(60, 'sleep', seconds=60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=worker_environment(os.environ)
    ) as parent:
        pid = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().split()[2] == "Z":
                    return  # dead, waiting for init
        except FileNotFoundError:
            return
        time.sleep(0.02)
    pytest.fail("the worker outlived its parent")


def test_ctrl_c_at_the_terminal_does_not_reach_the_worker(child):
    pid = child.request(10, "pid")["pid"]
    os.kill(pid, signal.SIGINT)
    assert child.request(10, "pid")["pid"] == pid


def test_the_fake_worker_speaks_the_protocol(tmp_path, monkeypatch):
    monkeypatch.setenv("DS4_FAKE", str(tmp_path / "faults"))
    (tmp_path / "faults").write_text(json.dumps({}))
    with Child(SPEC) as one, pytest.raises(EngineError, match="expected a model"):
        one.request(10, "inspect", settings={"model": "/no", "frontiers": [1]})
