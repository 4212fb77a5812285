"""The parent's end: what a dead, silent or talkative worker turns into."""

from __future__ import annotations

import itertools
import json
import mmap
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from ds4bench.plan import SweepPlan
from ds4bench.worker.child import _POLL_S, Child, ChildDied, Interrupted, worker_environment
from ds4bench.worker.messages import Command, Inspect
from engine.errors import EngineError, LayoutError
from tests.ds4bench.fakes import SPEC


@dataclass(frozen=True, slots=True)
class Nothing:
    """A reply without fields."""


@dataclass(frozen=True, slots=True)
class Number:
    n: int


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Pid(Command["Odd", Number]):
    word = "pid"

    def run(self, worker: Odd) -> Number:
        return Number(os.getpid())


@dataclass(frozen=True, slots=True)
class Echo(Command["Odd", Text]):
    word = "echo"
    text: str

    def run(self, worker: Odd) -> Text:
        return Text(self.text)


@dataclass(frozen=True, slots=True)
class Die(Command["Odd", Nothing]):
    word = "die"
    number: int

    def run(self, worker: Odd) -> Nothing:
        os.kill(os.getpid(), self.number)
        time.sleep(10)
        return Nothing()


@dataclass(frozen=True, slots=True)
class Leave(Command["Odd", Nothing]):
    word = "leave"
    status: int

    def run(self, worker: Odd) -> Nothing:
        print("last words", file=sys.stderr)
        sys.stderr.flush()
        os._exit(self.status)


@dataclass(frozen=True, slots=True)
class Chatter(Command["Odd", Nothing]):
    word = "chatter"

    def run(self, worker: Odd) -> Nothing:
        print("a library talks on stdout")
        os.write(1, b"and writes to descriptor 1\n")
        return Nothing()


@dataclass(frozen=True, slots=True)
class Sleep(Command["Odd", Nothing]):
    word = "sleep"
    seconds: float
    at_its_end: str = ""  # a file to write when the sleep was not cut short

    def run(self, worker: Odd) -> Nothing:
        time.sleep(self.seconds)
        if self.at_its_end:
            open(self.at_its_end, "w").close()
        return Nothing()


@dataclass(frozen=True, slots=True)
class Raise(Command["Odd", Nothing]):
    word = "raise"
    what: str

    def run(self, worker: Odd) -> Nothing:
        if self.what == "ours":
            raise LayoutError("blk.0: expected x, found y")
        if self.what == "memory":
            raise MemoryError
        raise KeyError("missing")


@dataclass(frozen=True, slots=True)
class TouchTruncatedMapping(Command["Odd", Number]):
    word = "touch"
    path: Path

    def run(self, worker: Odd) -> Number:
        with open(self.path, "r+b") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            file.truncate(0)
            return Number(mapped[8192])


class Odd:
    """A worker whose commands misbehave; loaded in the child by name."""

    commands = (Pid, Echo, Die, Leave, Chatter, Sleep, Raise, TouchTruncatedMapping)


ODD = "tests.ds4bench.test_child:Odd"


@pytest.fixture
def child():
    with Child(ODD) as one:
        yield one


def test_replies_round_trip_large_and_odd_text(child):
    text = "é\n\u2028\x00\U0001f600" + "x" * 200_000
    assert child.request(10, Echo(text)).text == text
    assert child.starts == 1 and child.pid == child.request(10, Pid()).n


@pytest.mark.parametrize(
    ("name", "status"),
    [("SIGSEGV", "crashed_segv"), ("SIGBUS", "crashed_bus"), ("SIGKILL", "crashed_oom"),
     ("SIGABRT", "crashed_abort"), ("SIGFPE", "crashed_other")],
)  # fmt: skip
def test_signals_become_statuses_and_the_next_request_a_new_process(child, name, status):
    with pytest.raises(ChildDied, match=name) as death:
        child.request(10, Die(getattr(signal, name)))
    assert death.value.status == status
    assert child.pid is None
    assert child.request(10, Echo("back")).text == "back"
    assert child.starts == 2


def test_a_signal_without_a_name_is_a_crash_too(child):
    number = signal.SIGRTMIN + 3
    with pytest.raises(ChildDied, match=f"ended by signal {number}") as death:
        child.request(10, Die(number))
    assert death.value.status == "crashed_other"


def test_exit_status_and_last_words_are_told(child):
    with pytest.raises(ChildDied, match="status 7: last words") as death:
        child.request(10, Leave(7))
    assert death.value.status == "crashed_other"


def test_a_file_truncated_under_its_mapping_costs_the_child_only(child, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(bytes(1 << 16))
    with pytest.raises(ChildDied) as death:
        child.request(10, TouchTruncatedMapping(path))
    assert death.value.status == "crashed_bus"


def test_silence_is_a_timeout_and_the_process_is_gone(child, tmp_path):
    pid = child.request(10, Pid()).n
    at_its_end = tmp_path / "at its end"
    with pytest.raises(ChildDied, match="within") as death:
        child.request(0.5, Sleep(60, str(at_its_end)))
    assert death.value.status == "timeout"
    assert not at_its_end.exists(), "the answer was waited for"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_stop_now_interrupts_a_request(child):
    child.request(10, Pid())
    child.stop_now = lambda: True
    with pytest.raises(Interrupted):
        child.request(60, Sleep(60))
    assert child.pid is None


def test_prints_do_not_disturb_replies(child):
    assert child.request(10, Chatter()) == Nothing()
    assert child.request(10, Echo("x")).text == "x"


def test_errors_keep_type_text_and_exit_code(child):
    with pytest.raises(LayoutError, match=r"blk\.0: expected x, found y") as failure:
        child.request(10, Raise("ours"))
    assert failure.value.exit_code == 3
    with pytest.raises(EngineError, match="KeyError") as failure:
        child.request(10, Raise("bug"))
    assert "in run" in failure.value.worker_trace
    with pytest.raises(EngineError, match="memory"):
        child.request(10, Raise("memory"))
    assert child.starts == 1, "an error is not a death"


def test_ticks_while_waiting(child):
    child.request(10, Pid())
    seen = []
    child.tick = seen.append
    child.request(600, Sleep(0.6))
    # At least at the start and once in 0.6 s; each but the last waits _POLL_S after the one before.
    assert len(seen) >= 2
    assert all(later - earlier >= 0.9 * _POLL_S for earlier, later in itertools.pairwise(seen))


def test_worker_dies_with_its_parent(tmp_path):
    code = (
        "import sys, time\n"
        "from ds4bench.worker.child import Child\n"
        "from tests.ds4bench.test_child import ODD, Pid, Sleep\n"
        "c = Child(ODD); print(c.request(10, Pid()).n, flush=True)\n"
        "c.request(60, Sleep(60))\n"
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
    pid = child.request(10, Pid()).n
    os.kill(pid, signal.SIGINT)
    assert child.request(10, Pid()).n == pid


def test_the_fake_worker_speaks_the_protocol(tmp_path, monkeypatch):
    monkeypatch.setenv("DS4_FAKE", str(tmp_path / "faults"))
    (tmp_path / "faults").write_text(json.dumps({}))
    with Child(SPEC) as one, pytest.raises(EngineError, match="expected a model"):
        one.request(10, Inspect(SweepPlan(Path("/no"))))
