"""The team of threads: every unit once, whoever comes late, dies, forks or raises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from engine.errors import BackendError
from engine.ops import cpu
from engine.ops.cpu.runtime import team as teams
from engine.ops.cpu.runtime.jit import kernel
from engine.ops.cpu.runtime.leaf import fetch_add
from engine.ops.cpu.runtime.over import over
from tests.engine.ops.support import normal, poisoned, threads

COST = 1 << 20  # of a unit: always worth sharing


@kernel
def _count(counts, bad, first, last):
    """Add 1 to each unit's count; unit `bad` raises."""
    for i in range(first, last):
        fetch_add(counts.ctypes.data + 8 * i, 1)
        if i == bad:
            raise ValueError("unit")


@kernel
def count(team, counts, bad):
    over(team, counts.size, COST, _count, (counts, bad))


@kernel
def _nested(outer, inner, team, first, last):
    for i in range(first, last):
        fetch_add(outer.ctypes.data + 8 * i, 1)
        over(team, inner.shape[1], COST, _count, (inner[i], -1))


@kernel
def nested(team, outer, inner):
    over(team, outer.size, COST, _nested, (outer, inner, team))


@pytest.fixture(autouse=True)
def _as_before():
    with threads(2):
        yield


def asleep(team: teams.Team) -> bool:
    """Whether every helper sleeps, at the latest after a while."""
    for _ in range(1000):
        if team[teams.SLEEPERS] == team.n_threads - 1:
            return True
        time.sleep(0.005)
    return False


@pytest.fixture
def own():
    """A team of this test's own, ended behind it."""
    made: list[teams.Team] = []

    def make(n: int, spin: int | None = None) -> teams.Team:
        made.append(teams.Team(n, spin))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.mark.parametrize("spin", [0, 2_000, 10_000_000])
@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_every_unit_runs_once(own, n, spin):
    """With helpers that never spin, always spin, or fall asleep between; more than cores, too."""
    one = own(n, spin)
    for units in [1, 2, 7, 64] * 25:
        counts = np.zeros(units, np.int64)
        count(one.address, counts, -1)
        assert (counts == 1).all()
    assert one[teams.STATE] & 0x1FFFF == 0 and one[teams.OWNED] == 0


def test_helpers_take_part(own):
    """The caller's units wait until a helper has claimed some."""
    one = own(2, 10_000_000)
    for _ in range(200):
        counts = np.zeros(4096, np.int64)
        who: set[int] = set()
        meet(one.address, counts, np.zeros(1, np.int64))
        who = set(counts.tolist())
        if len(who) > 1:
            return
    raise AssertionError("no helper ever took a unit")


@kernel
def _meet(counts, turn, first, last):
    for i in range(first, last):
        # Addresses of a stack variable differ between threads by whole stacks.
        here = np.empty(1, np.int64)
        counts[i] = here.ctypes.data >> 16
        for _ in range(2000):
            fetch_add(turn.ctypes.data, 1)


@kernel
def meet(team, counts, turn):
    over(team, counts.size, COST, _meet, (counts, turn))


def test_an_exception_of_a_worker_reaches_the_caller_and_the_team_goes_on(own):
    for one in (own(2), own(1)):
        for bad in (0, 40, 63):
            with pytest.raises(ValueError, match="unit"):
                count(one.address, np.zeros(64, np.int64), bad)
            counts = np.zeros(64, np.int64)
            count(one.address, counts, -1)
            assert (counts == 1).all()


def test_a_region_inside_a_region_is_the_callers_alone(own):
    one = own(3)
    outer, inner = np.zeros(8, np.int64), np.zeros((8, 50), np.int64)
    nested(one.address, outer, inner)
    assert (outer == 1).all() and (inner == 1).all()


def test_two_threads_of_a_program_may_use_one_team(own):
    one = own(2)
    found = []

    def use() -> None:
        for _ in range(300):
            counts = np.zeros(33, np.int64)
            count(one.address, counts, -1)
            found.append((counts == 1).all())

    users = [threading.Thread(target=use) for _ in range(3)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert len(found) == 900 and all(found)


def test_an_idle_team_sleeps_and_wakes(own):
    one = own(3)
    for _ in range(3):
        assert asleep(one)
        counts = np.zeros(99, np.int64)
        count(one.address, counts, -1)
        assert (counts == 1).all()


def test_helpers_take_no_signals():
    cpu.rms_norm(poisoned(1, 64), np.ones((1, 64), np.float32), None, 1e-6)
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("no /proc here")
    helpers = [t for t in threading.enumerate() if t.name.startswith("ds4-helper")]
    assert helpers
    for helper in helpers:
        status = (tasks / str(helper.native_id) / "status").read_text()
        blocked = int(status.split("SigBlk:")[1].split()[0], 16)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
            assert blocked >> (number - 1) & 1, number


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_makes_its_own_team(rng):
    x, expected = normal(rng, 256, 1024), poisoned(256, 1024)
    cpu.rms_norm(expected, x, None, 1e-6)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            found = poisoned(256, 1024)
            for _ in range(20):
                cpu.rms_norm(found, x, None, 1e-6)
            own = teams._teams[2]
            helping = len(own.helpers) == 1 and own.helpers[0].is_alive()
            code = 0 if found.tobytes() == expected.tobytes() and helping else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    again = poisoned(256, 1024)
    cpu.rms_norm(again, x, None, 1e-6)
    assert again.tobytes() == expected.tobytes()


def test_a_system_that_allows_no_more_threads_is_named(monkeypatch):
    started = []

    class Refused(threading.Thread):
        def start(self) -> None:
            if started:
                raise RuntimeError("can't start new thread")
            started.append(self)
            super().start()

    monkeypatch.setattr(teams.threading, "Thread", Refused)
    with pytest.raises(BackendError, match="threads: expected to start 4 helpers, found can't"):
        teams.Team(5)
    started[0].join(10)
    assert not started[0].is_alive()


PROGRAM = """
import sys, numpy as np
from pathlib import Path
from engine.ops import cpu
from engine.ops.cpu.runtime import team
team.set_threads(int(sys.argv[1]))
x = np.ones((256, 1024), np.float32)
out = np.empty_like(x)
for _ in range(50):
    cpu.rms_norm(out, x, None, 0.0)
assert (out == 1).all()
maps = Path("/proc/self/maps")
if maps.exists():
    loaded = {line.split("/")[-1] for line in maps.read_text().splitlines() if ".so" in line}
    print([name for name in loaded if "tbb" in name or "gomp" in name or "iomp" in name])
if sys.argv[2] == "raise":
    raise SystemExit(3)
"""


@pytest.mark.parametrize(("n", "end", "code"), [("2", "", 0), ("5", "raise", 3)])
def test_a_program_ends_while_helpers_spin(n, end, code):
    """And no other library of threads came with it."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, n, end], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.strip() in ("[]", "")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_one_core_for_two_threads_is_enough():
    core = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "2", ""],
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    assert (done.returncode, done.stderr) == (0, "")
