"""Effects of launches, the order that follows from them, and working memory that passes keep."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from engine.ops.cuda.build import ptx
from engine.ops.cuda.build.compile import registry
from engine.ops.cuda.build.kernel import U32, U32P, kernel
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.device.record import Entry, Extents, dependencies
from engine.ops.cuda.ops import CudaOps
from engine.ops.cuda.passes import horizon_of
from tests.cuda.natsim import NatsimDevice, SimulationError
from tests.cuda.natsim.device import topological


def entry(reads=(), writes=()):
    return Entry("launch", (), reads=frozenset(reads), writes=frozenset(writes))


def test_an_entry_waits_for_writers_and_readers_and_for_nothing_that_is_implied():
    log = [
        entry(writes="a"),
        entry(reads="a", writes="b"),
        entry(reads="a", writes="c"),
        entry(reads="bc", writes="d"),
        entry(reads="d", writes="a"),  # after 1 and 2, which 3 has waited for
        entry(reads="e"),
    ]
    assert dependencies(log) == [(), (0,), (0,), (1, 2), (3,), ()]


def test_any_order_of_the_edges_gives_what_the_log_gives():
    """Random logs over few cells, each entry writing a mix of what it touches."""
    rng = np.random.default_rng(1)
    for _ in range(30):
        log = []
        for _ in range(24):
            cells = rng.permutation(6)
            log.append(entry(cells[:2].tolist(), cells[2 : 2 + int(rng.integers(1, 3))].tolist()))
        before = dependencies(log)

        def run(order, log=log):
            cells = list(range(6))
            for at in order:
                mixed = hash((at, *(cells[c] for c in sorted(log[at].reads | log[at].writes))))
                for c in log[at].writes:
                    cells[c] = hash((mixed, c))
            return cells

        expected = run(range(len(log)))
        for seed in range(5):
            assert run(topological(before, random.Random(seed))) == expected


def test_extents_know_which_allocation_an_address_is_in():
    extents = Extents()
    extents.add(1000, 100)
    extents.add(5000, 1)
    assert [extents.holding(a) for a in (999, 1000, 1099, 1100, 5000, 5001)] == [
        None, 1000, 1000, None, 5000, None,
    ]  # fmt: skip
    extents.remove(1000)
    assert extents.holding(1000) is None and extents.holding(5000) == 5000


def test_every_kernel_says_what_it_writes():
    assert [k.name for k in registry().values() if k.writes is None] == []


@kernel(U32P, U32P, threads=32, name="test_sly", writes=("a",))
def _sly(a, b):
    a[0] = 1
    b[0] = 2


def test_the_simulator_finds_a_write_that_was_not_declared():
    ctx = Context(NatsimDevice())
    a, b = ctx.zeros((1,), np.uint32), ctx.zeros((1,), np.uint32)
    with pytest.raises(SimulationError, match="expected b to be only read"):
        ctx.launch(_sly, 1, a, b)


@kernel(U32P, threads=32, name="test_unordered", writes=("a",))
def _unordered(a):
    a[1] = U32(ptx.ld_nc_b32(ptx.address(a)))


def test_the_simulator_finds_an_unordered_load_of_what_is_written():
    ctx = Context(NatsimDevice())
    with pytest.raises(SimulationError, match="expected a load without order of memory"):
        ctx.launch(_unordered, 1, ctx.zeros((2,), np.uint32))


def test_a_name_that_is_no_pointer_is_refused():
    with pytest.raises(ValueError, match=r"expected a pointer among .* found c"):
        kernel(U32P, threads=32, name="test_refused", writes=("c",))(lambda a: None)


def test_working_memory_that_grows_voids_no_recorded_pass():
    """A small pass, a larger one, and the small one again: it is replayed where it was."""
    ops = CudaOps(Context(NatsimDevice()))
    ctx, bodies = ops.ctx, []
    out = ctx.zeros((64,), np.uint32)

    def body(n):
        def run(pos0):
            bodies.append(n)
            room = ctx.scratch("room", (n,), np.uint32)
            ctx.fill(room, n)
            ctx.copy(out[:n], room)

        return run

    for n in (4, 64, 4, 64, 4):
        ctx.fill(out, 0)
        ops.run(ops, ("pass", n), 0, body(n))
        assert np.asarray(out).tolist() == [n * 0x01010101] * n + [0] * (64 - n)
    assert bodies == [4, 64]


def test_the_pass_that_was_not_run_for_longest_is_dropped(monkeypatch):
    monkeypatch.setattr("engine.ops.cuda.ops.KEPT_PASSES", 2)
    ops, bodies = CudaOps(Context(NatsimDevice())), []

    def body(n):
        return lambda pos0: bodies.append(n)

    for n in (1, 2, 1, 3, 1, 2):
        ops.run(ops, ("pass", n), 0, body(n))
    assert bodies == [1, 2, 3, 2]


def test_passes_are_recorded_once_for_each_horizon():
    ends = (1, 4096, 4097, 16384, 16385, 1 << 20)
    assert [horizon_of(e) for e in ends] == [4096, 4096, 16384, 16384, 65536, 1 << 20]
    assert all(a <= b for a, b in pairwise(map(horizon_of, range(0, 70000, 997))))


def test_a_launch_that_was_put_off_is_made_before_anything_needs_it():
    ctx = Context(NatsimDevice())
    state, y, other = (ctx.zeros((4,), np.uint32) for _ in range(3))
    made = []
    ctx.defer(state, (y,), lambda: made.append("first"))
    ctx.launch(_sly, 1, other, other)
    assert made == []
    ctx.launch(_sly, 1, y, y)
    assert made == ["first"]
    ctx.defer(state, (y,), lambda: made.append("second"))
    np.asarray(state)
    ctx.defer(state, (y,), lambda: made.append("third"))
    assert ctx.take(other) is None and ctx.take(state) == (y,)
    ctx.settle()
    assert made == ["first", "second"]


def test_an_array_that_did_not_fit_leaves_nothing_to_give_back(monkeypatch):
    """The stub's tests see the driver's refusal; here nothing may be raised where nobody looks."""
    import sys

    class Full(NatsimDevice):
        def alloc(self, n_bytes):
            if n_bytes > 1000:
                raise MemoryError
            return super().alloc(n_bytes)

    unseen = []
    monkeypatch.setattr(sys, "unraisablehook", unseen.append)
    ctx = Context(Full())
    with pytest.raises(MemoryError):
        ctx.empty((1000,))
    assert unseen == []
