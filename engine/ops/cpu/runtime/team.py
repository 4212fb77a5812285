"""The resident team of threads: helpers that wait for a region of jobs, join it, and leave it.

A region is opened by one word in memory. Helpers that see it in time enter by compare-and-swap and
claim tasks beside the caller; once tasks have run out the region is closed, and the caller waits
only for helpers that are inside. A helper that comes late finds it closed and has delayed nobody.
Between regions helpers spin for a fraction of a millisecond, which bridges the Python between two
ops, then sleep on a condition variable: an idle engine uses no processor time.

Helpers run compiled code without the interpreter lock and take no signals. A forked child has none
of its parent's threads and makes its own team when it first needs one. Needs POSIX threads (Linux,
macOS). What a job is, this module does not know.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import threading
import time

import numpy as np
from numba import types

from engine.errors import BackendError
from engine.ops.cpu.runtime.jit import default_threads, kernel
from engine.ops.cpu.runtime.leaf import (
    add_release,
    call1,
    call2,
    load_i64,
    load_shared,
    pause,
    stack,
    store_i64,
    store_shared,
    swap_if,
)
from engine.ops.cpu.runtime.tasks import plan, work

# Byte offsets in a team's memory, int64 each. What different threads write lies in different pairs
# of cache lines.
#     THREADS        helpers and the caller
#     SPIN           nanoseconds that a helper waits before it sleeps
#     LOCK .. CLOCK  addresses of C functions
#     CLOCK_ID       of the monotonic clock
#     STATE          regions so far << 17 | whether one is open << 16 | helpers inside
#     JOBS, N_JOBS   of the open region
#     COUNTER        next task of the open region
#     OWNED          1 while a caller has a region
#     SLEEPERS       helpers that sleep or are about to
#     STOP           1 when helpers must end
#     MUTEX, WAKE    pthread_mutex_t and pthread_cond_t that helpers sleep on; at most 64 bytes each
THREADS, SPIN = 0, 8
LOCK, UNLOCK, WAIT, BROADCAST, YIELD, CLOCK, CLOCK_ID = range(16, 72, 8)
STATE, JOBS, N_JOBS, COUNTER, OWNED, SLEEPERS, STOP = 128, 256, 264, 384, 512, 640, 768
MUTEX, WAKE = 896, 1024
TEAM_BYTES = 1152
_OPEN = 1 << 16
_INSIDE = _OPEN - 1
_EPOCH = 17

# Longest wait between two ops of a pass and between two tokens, with some room.
SPIN_NS = 200_000
# Turns of `pause` between two looks at the clock.
_LOOK = 64
# Turns of `pause` for helpers that are still inside before the caller offers them its core.
_PATIENCE = 4096


@kernel
def _sleep(team, seen):
    """Sleep until a caller wakes the team; not at all where a new region is open already."""
    call1(load_i64(team + LOCK), team + MUTEX)
    add_release(team + SLEEPERS, 1)
    state = load_shared(team + STATE)
    if load_shared(team + STOP) == 0 and (state >> _EPOCH == seen or state & _OPEN == 0):
        call2(load_i64(team + WAIT), team + WAKE, team + MUTEX)
    add_release(team + SLEEPERS, -1)
    call1(load_i64(team + UNLOCK), team + MUTEX)


@kernel
def _now(team, clock):
    """Nanoseconds; `clock` is the address of 16 bytes to work in (struct timespec)."""
    call2(load_i64(team + CLOCK), load_i64(team + CLOCK_ID), clock)
    return load_i64(clock) * 1_000_000_000 + load_i64(clock + 8)


@kernel
def _serve(team):
    """A helper's life: wait, enter, work, leave; ends when STOP is set.

    The wait is measured by the clock, not in turns: a helper that lost its core while it span is on
    a busy machine, and sleeps as soon as it is back.
    """
    seen = -1
    idle = 0
    since = 0
    clock = stack(64)
    while load_shared(team + STOP) == 0:
        state = load_shared(team + STATE)
        if state & _OPEN != 0 and state >> _EPOCH != seen:
            if swap_if(team + STATE, state, state + 1) != 0:
                seen = state >> _EPOCH
                work(load_i64(team + JOBS), load_i64(team + N_JOBS), team + COUNTER)
                add_release(team + STATE, -1)
                idle = 0
            continue
        if idle % _LOOK == 0:
            now = _now(team, clock)
            if idle == 0:
                since = now
            elif now - since > load_i64(team + SPIN):
                _sleep(team, seen)
                idle = 0
                continue
        pause()
        idle += 1


@kernel
def _wake(team):
    call1(load_i64(team + LOCK), team + MUTEX)
    call1(load_i64(team + BROADCAST), team + WAKE)
    call1(load_i64(team + UNLOCK), team + MUTEX)


@kernel
def _region(jobs, n_jobs, team):
    """Open a region, work in it, close it, and wait for those inside."""
    store_i64(team + JOBS, jobs)
    store_i64(team + N_JOBS, n_jobs)
    store_i64(team + COUNTER, 0)
    epoch = load_i64(team + STATE) >> _EPOCH
    store_shared(team + STATE, ((epoch + 1) << _EPOCH) | _OPEN)
    # A helper counts itself among the sleepers before it looks at the state for the last time, and
    # here it is the other way round: one of the two sees the other.
    if load_shared(team + SLEEPERS) != 0:
        _wake(team)
    work(jobs, n_jobs, team + COUNTER)
    add_release(team + STATE, -_OPEN)
    waited = 0
    while load_shared(team + STATE) & _INSIDE != 0:
        if waited < _PATIENCE:
            pause()
            waited += 1
        else:
            call1(load_i64(team + YIELD), 0)


@kernel
def run(jobs, n_jobs, team):
    """Run every unit of every job; returns when all are done.

    Where the team is taken, by another thread of the program or by the job that calls this, the
    caller does everything itself.
    """
    many = plan(jobs, n_jobs, load_i64(team + THREADS)) > 1
    if many and swap_if(team + OWNED, 0, 1) != 0:
        _region(jobs, n_jobs, team)
        store_shared(team + OWNED, 0)
    else:
        counter = stack(64)
        store_i64(counter, 0)
        work(jobs, n_jobs, counter)


@kernel
def _stop(team):
    store_shared(team + STOP, 1)
    _wake(team)


class Team:
    """Some threads and the memory in which they meet; they wait until the program ends.

    Parameters
    ----------
    n_threads : int
        The caller is one of them.
    spin : int, optional
        Nanoseconds before a helper sleeps. `SPIN_NS` where every thread can have a core, else none:
        a helper without a core would spin on its caller's.

    Raises
    ------
    BackendError
        If the system allows no more threads, or has no POSIX ones.
    """

    def __init__(self, n_threads: int, spin: int | None = None) -> None:
        raw = np.zeros(TEAM_BYTES + 128, np.uint8)
        start = -raw.ctypes.data % 128
        self._fields = raw[start : start + TEAM_BYTES].view(np.int64)
        self.n_threads = n_threads
        self.address: int = self._fields.ctypes.data
        self._set(THREADS, n_threads)
        self.helpers: list[threading.Thread] = []
        if n_threads == 1:
            return
        if spin is None:
            spin = SPIN_NS if n_threads <= default_threads() else 0
        self._set(SPIN, spin)
        self._prepare_sleep()
        _serve.compile((types.int64,))
        for i in range(1, n_threads):
            helper = threading.Thread(target=self._help, name=f"ds4-helper-{i}", daemon=True)
            try:
                helper.start()
            except RuntimeError as error:
                self.stop()
                raise BackendError(
                    f"threads: expected to start {n_threads - 1} helpers, found {error} after "
                    f"{i - 1}; ask for fewer threads"
                ) from None
            self.helpers.append(helper)

    def __getitem__(self, field: int) -> int:
        return int(self._fields[field // 8])

    def _set(self, field: int, value: int) -> None:
        self._fields[field // 8] = value

    def _prepare_sleep(self) -> None:
        """Make mutex and condition variable, and note where the C functions are."""
        lib = ctypes.CDLL(None)
        names = {
            LOCK: "pthread_mutex_lock",
            UNLOCK: "pthread_mutex_unlock",
            WAIT: "pthread_cond_wait",
            BROADCAST: "pthread_cond_broadcast",
            YIELD: "sched_yield",
            CLOCK: "clock_gettime",
        }
        self._set(CLOCK_ID, time.CLOCK_MONOTONIC)
        try:
            for field, name in names.items():
                address = ctypes.cast(getattr(lib, name), ctypes.c_void_p).value
                assert address is not None
                self._set(field, address)
            for field, init in ((MUTEX, lib.pthread_mutex_init), (WAKE, lib.pthread_cond_init)):
                if init(ctypes.c_void_p(self.address + field), None):
                    raise BackendError("threads: expected a lock to sleep on, found refusal")
        except AttributeError as error:
            raise BackendError(f"threads: expected POSIX threads, found {error}") from None

    def _help(self) -> None:
        # A signal that lands here would not wake the main thread, whose business it is.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        _serve(self.address)

    def stop(self) -> None:
        """End the helpers; the memory stays, a caller may be using it."""
        if self.n_threads > 1:
            _stop(self.address)
            for helper in self.helpers:
                helper.join(1.0)
            self.helpers = []


_teams: dict[int, Team] = {}
_lock = threading.Lock()
_wanted = 0  # threads; 0: as many as this process may use cores
_current = 0  # address of the team in use, 0 where it has to be found or made


def team() -> int:
    """Address of the team that ops run on."""
    return _current or _find()


def _find() -> int:
    global _current
    n = _wanted or default_threads()
    with _lock:
        if n not in _teams:
            _teams[n] = Team(n)
        _current = _teams[n].address
    return _current


def threads() -> int:
    """Threads that ops run on."""
    return _wanted or default_threads()


def set_threads(n: int | None) -> int:
    """Use n threads (one for each core that this process may use when None); returns the number.

    Raises
    ------
    BackendError
        If the system allows no more threads.
    """
    global _wanted, _current
    _wanted, _current = n or 0, 0
    team()
    return threads()


def _forget() -> None:
    """In a forked child: the parent's helpers are not here."""
    global _lock, _current
    _lock = threading.Lock()
    _current = 0
    _teams.clear()


def _end() -> None:
    """Helpers must not be inside compiled code while it is taken down."""
    for made in list(_teams.values()):
        made.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
atexit.register(_end)
