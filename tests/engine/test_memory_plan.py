"""The memory plan equals what is allocated: for each kernel set, shape, context and chunk."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import psutil
import pytest

from engine import EngineOptions, generate, open_engine
from engine import memory as memory_module
from engine.errors import MemoryBudgetError
from engine.memory import MemoryPlan, check_memory, plan_memory, plan_weights
from engine.models import recipes
from engine.ops.memory import experts_bytes, panels_bytes, product_bytes
from engine.spec.dspark import DsparkDrafter
from engine.spec.mtp import MtpDrafter as Drafter
from engine.weights.files import open_files, open_model
from tests.engine.models import dspark_file, model_file

# Modules whose classes hold arrays and weights of a prepared model.
HOLDERS = ("engine.forward.model", "engine.forward.dspark", "engine.ops.operands")

CASES = [
    # shape, recipe, ctx, chunk, kv
    ("micro", "q8_0", 300, 64, "official"),
    ("micro", "q8_0", 300, 512, "f32"),
    ("micro", "iq2", 4096, 8, "official"),
    ("tiny", "q4", 1000, 256, "official"),
    ("nano", "q8_0", 700, 128, "official"),
    ("tiny-wide", "f16", 260, 32, "f32"),
]


class Counted:
    """A kernel set that counts the bytes of the arrays that it makes."""

    def __init__(self, ops):
        self.ops = ops
        self.n_bytes = 0

    def __getattr__(self, name):
        return getattr(self.ops, name)

    def new_array(self, shape, dtype=np.float32):
        return self._count(self.ops.new_array(shape, dtype))

    def new_kv_rows(self, cap, dim, official):
        return self._count(self.ops.new_kv_rows(cap, dim, official))

    def new_index_rows(self, cap, dim, official):
        rows = self.ops.new_index_rows(cap, dim, official)
        self.n_bytes += rows.n_bytes
        return rows

    def _count(self, array):
        self.n_bytes += array.nbytes
        return array


def options_for(folder, case, backend, mtp=False):
    shape, recipe, _, chunk, kv = case
    return EngineOptions(
        path=model_file(folder, shape, recipe),
        mtp_path=model_file(folder, shape, recipe, draft=True) if mtp else None,
        backend=backend,
        threads=2,
        repack="off",
        prefill_chunk=chunk,
        kv=kv,
    )


def planned(options, ctx):
    with open_files(options.path, options.mtp_path) as files:
        return plan_memory(files, options, ctx)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2]}-{case[3]}")
def test_the_plan_is_what_the_engine_says_and_what_a_session_allocates(model_folder, case, backend):
    ctx = case[2]
    options = options_for(model_folder, case, backend, mtp=True)
    plan = planned(options, ctx)
    with open_engine(options) as engine:
        assert plan == engine.memory_estimate(ctx)
        engine.ops = ops = Counted(engine.ops)
        session = engine.session(ctx)
        assert session.cache.allocated_bytes() == plan.context
        session._checked = ops.new_array((16, engine.shape.n_vocab))  # as the first verification
        angles = 2 * min(-(-(ctx + max(min(case[3], ctx), 16)) // 1024), 8)
        angles *= 1024 * engine.shape.n_rot * 4  # blocks of positions, made as they are needed
        assert ops.n_bytes + angles == plan.context + plan.activations
        before = ops.n_bytes
        Drafter(session)
        assert ops.n_bytes - before == plan.drafter
    assert planned(options_for(model_folder, case, backend), ctx).drafter == 0


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_plan_counts_a_dspark_drafter(model_folder, backend):
    case = ("micro", "q8_0", 300, 64, "official")
    options = dataclasses.replace(
        options_for(model_folder, case, backend),
        dspark_path=dspark_file(model_folder, "micro", "q8_0"),
    )
    with open_model(options) as files:
        plan, copies = plan_memory(files, options, 300), plan_weights(files.weights, options)
    with open_engine(options) as engine:
        assert plan == engine.memory_estimate(300)
        assert copies.vectors == sum(_vectors(engine))
        engine.ops = ops = Counted(engine.ops)
        session = engine.session(300)
        session._checked = ops.new_array((16, engine.shape.n_vocab))
        angles = 2 * min(-(-(300 + 64) // 1024), 8) * 1024 * engine.shape.n_rot * 4
        assert ops.n_bytes + angles == plan.context + plan.activations
        before = ops.n_bytes
        DsparkDrafter(session)
        assert ops.n_bytes - before == plan.drafter > 0


@pytest.mark.parametrize("case", CASES[:4], ids=lambda case: f"{case[0]}-{case[2]}-{case[3]}")
def test_kernels_of_the_cpu_set_hold_no_more_than_is_planned(model_folder, case):
    """On a thread of its own, which has no working memory from other tests."""
    from engine.ops.cpu.runtime import jobs

    ctx = case[2]
    options = options_for(model_folder, case, "cpu", mtp=True)
    seen = []

    def run():
        with open_engine(options) as engine:
            session = engine.session(ctx)
            tokens = [3 + i % 200 for i in range(min(ctx - 20, 2 * case[3]))]
            jobs._local.__dict__.clear()
            for _ in generate(session, tokens, mode="mtp-combined", draft=2, stop=(), limit=8):
                pass
            seen.append(jobs._local.memory.nbytes)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    plan = planned(options, ctx)

    # Memory grows by a quarter more than is asked for, so that the order of passes decides
    # whether the largest one still fits in what an earlier one left.
    assert 0.6 * plan.working <= seen[0] <= plan.working


@pytest.mark.parametrize("repack", ["on", "off", "auto"])
@pytest.mark.parametrize("recipe", ["q8_0", "iq2", "q4", "f16", "f32"])
def test_weights_are_planned_as_they_are_copied(model_folder, recipe, repack):
    case = ("micro", recipe, 300, 64, "official")
    options = dataclasses.replace(options_for(model_folder, case, "cpu", mtp=True), repack=repack)
    with open_files(options.path, options.mtp_path) as files:
        plan = plan_weights(files.weights, options)
    with open_engine(options) as engine:
        assert plan.copies == engine.repacked_bytes
        assert (plan.copies > 0) == (repack != "off")
        assert plan.vectors == sum(_vectors(engine))
        assert engine.memory_estimate(64).weights == plan.n_bytes


def _vectors(engine):
    """Bytes of the small arrays that the prepared model holds, tables of the mapping apart."""
    waiting, seen = [engine.model, engine.mtp, engine.dspark], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, np.ndarray):
            if value.dtype == np.float32 and id(value) not in seen:
                seen.add(id(value))
                yield value.nbytes
        elif isinstance(value, tuple):
            waiting += value
        elif type(value).__module__ in HOLDERS:
            waiting += [getattr(value, name) for name in value.__slots__]


def test_weights_of_the_reference_set_are_float64(model_folder):
    options = options_for(model_folder, CASES[0], "reference")
    with open_files(options.path) as files:
        plan = plan_weights(files.weights, options)
    total = 0
    with open_engine(options) as engine:
        layers = engine.model.layers
        for holder in (engine.model, engine.model.head, *layers):
            total += sum(_values(holder))
    assert plan.copies == total


def _values(holder):
    for name in holder.__slots__:
        value = getattr(holder, name)
        if hasattr(value, "values"):
            yield value.values.nbytes
        elif type(value).__module__ in HOLDERS and name not in ("layers", "head"):
            yield from _values(value)


def test_formulas_are_the_cpu_set_s_own(model_folder):
    from engine.ops import cpu
    from engine.ops.cpu import moe, products

    assert products.product_bytes is product_bytes and moe.experts_bytes is experts_bytes
    for recipe in recipes.RECIPES:
        with open_files(model_file(model_folder, "micro", recipe)) as files:
            for tensor in memory_module.matrices(files.weights.tensors):
                assert panels_bytes(memory_module._stored(tensor)) == cpu.repack_bytes(tensor)


PARTS = ["context", "activations", "working", "drafter"]


@pytest.mark.parametrize("part", PARTS)
def test_no_part_of_a_session_is_left_out_of_the_check(model_folder, monkeypatch, part):
    """One byte less than all parts together is refused, whichever part that byte belongs to."""
    options = options_for(model_folder, CASES[0], "cpu", mtp=True)
    with open_engine(options) as engine:
        estimate = engine.memory_estimate(300)
        need = sum(getattr(estimate, name) for name in PARTS)
        assert getattr(estimate, part) > 0 and estimate.session == need
        monkeypatch.setattr(engine.ops, "free_bytes", lambda: need)
        engine.check_context(300)
        monkeypatch.setattr(engine.ops, "free_bytes", lambda: need - 1)
        with pytest.raises(MemoryBudgetError, match="for 300 tokens"):
            engine.session(300)
        without = need - getattr(estimate, part)
        monkeypatch.setattr(engine.ops, "free_bytes", lambda: without)
        with pytest.raises(MemoryBudgetError, match=f"found {need >> 20} MiB"):
            engine.session(300)


def test_check_compares_need_and_free():
    check_memory(5, 5, 100)
    with pytest.raises(MemoryBudgetError):
        check_memory(6, 5, 100)


def test_a_model_beyond_the_hosts_memory_is_warned_of_with_three_numbers():
    """A Pro file on 24 GiB, and a Q4 file on 118: both can be read, from the disk."""
    gib = 1 << 30
    for mapped, free in ((430 * 10**9, 24 * gib), (164_633_502_304, 118 * gib)):
        plan = MemoryPlan(mapped, 3 * gib, gib, gib, 0, 0)
        line = plan.warning(free)
        assert line.startswith(f"WARNING: memory: expected at most {free / gib:.2f} GiB")
        assert f"found {mapped / gib:.2f} GiB of mapped files + 3.00 GiB of copies + 2.00" in line
        assert dataclasses.replace(plan, on_device=True).warning(free) == ""
    fits = MemoryPlan(10, 3, 2, 0, 0, 0)
    assert fits.warning(15) == "" and fits.warning(14) != ""


def test_auto_repacks_within_half_of_the_free_memory(model_folder, monkeypatch):
    options = dataclasses.replace(options_for(model_folder, CASES[0], "cpu"), repack="auto")
    with open_files(options.path) as files:
        on = plan_weights(files.weights, dataclasses.replace(options, repack="on"))
        for spare, expected in ((0, True), (-1, False)):
            free = psutil.virtual_memory()._replace(available=2 * (on.copies + spare) + 1 + spare)
            monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: free)
            assert plan_weights(files.weights, options).repack is expected
            monkeypatch.undo()


def test_the_plan_of_a_device_never_asks_the_host(model_folder, monkeypatch):
    from engine.ops.cuda.memory import copy_bytes

    class Simulated:
        def free_bytes(self):
            return 1 << 40

    def unasked():
        raise AssertionError("the host's memory is not the device's")

    options = options_for(model_folder, CASES[0], "cuda", mtp=True)
    monkeypatch.setattr(psutil, "virtual_memory", unasked)
    with open_files(options.path, options.mtp_path) as files:
        plan = plan_memory(files, options, 300, device=Simulated())
        copied = sum(map(copy_bytes, memory_module.matrices(files.weights.tensors)))
    assert plan.on_device and plan.weights > copied
    assert memory_module.free_bytes(Simulated()) == 1 << 40
    assert "on the device" in str(plan)
