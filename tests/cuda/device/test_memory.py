"""The memory plan of the CUDA set equals what it allocates, seen on the simulated device."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest

from engine import EngineOptions, generate, open_engine
from engine.memory import open_device, plan_memory
from engine.ops.cuda.memory import planned_weight_bytes
from engine.ops.cuda.ops import CudaOps
from engine.spec.dspark import DsparkDrafter
from engine.spec.mtp import MtpDrafter as Drafter
from engine.weights.files import open_files, open_model
from tests.cuda.conftest import ON_GPU
from tests.engine.models import dspark_file, model_file

pytestmark = pytest.mark.skipif(ON_GPU, reason="counts allocations of the simulated device")


@pytest.fixture
def device(monkeypatch):
    """One simulated device for everybody who opens it."""
    from engine.ops.cuda.device import driver
    from tests.cuda.natsim import NatsimDevice

    made = NatsimDevice()
    monkeypatch.setattr(driver, "open_device", lambda options: made)
    return made


def held(device):
    """Bytes that are allocated on the simulated device."""
    from tests.cuda.natsim.device import RED_ZONE

    return sum(block.size - 2 * RED_ZONE for block in device._memory.values())


def options_for(folder, shape, recipe, kv, chunk):
    paths = [model_file(folder, shape, recipe, draft=draft) for draft in (False, True)]
    return EngineOptions(*paths, backend="cuda", kv=kv, prefill_chunk=chunk)


@pytest.mark.parametrize(
    ("shape", "recipe", "kv", "ctx", "chunk"),
    [
        ("micro", "iq2", "official", 320, 64),
        ("micro", "q8_0", "f32", 3000, 24),
        ("nano", "q8_0", "official", 700, 512),
    ],
)
def test_the_plan_is_what_is_allocated(device, model_folder, shape, recipe, kv, ctx, chunk):
    options = options_for(model_folder, shape, recipe, kv, chunk)
    with open_files(options.path, options.mtp_path) as files:
        plan = plan_memory(files, options, ctx, device=open_device(options))
    empty = held(device)
    with open_engine(options) as engine:
        assert plan == engine.memory_estimate(ctx)
        # What preparing leaves behind beside the weights: raw rows, the codebook, a position.
        left = engine.ops.ctx._scratch.get("raw rows")
        left_bytes = 640 * 8 + 4 + (left.nbytes if left is not None else 0)
        assert held(device) - empty == plan.weights + left_bytes
        before = held(device)
        session = engine.session(ctx)
        session._checked = engine.ops.new_array((16, engine.shape.n_vocab))
        assert held(device) - before == plan.context + plan.activations
        before = held(device)
        drafter = Drafter(session)
        assert held(device) - before == plan.drafter
        del drafter
        engine.close()


def test_working_memory_of_passes_is_within_the_plan(device, model_folder):
    options = options_for(model_folder, "micro", "iq2", "official", 48)
    with open_engine(options) as engine:
        engine.ops.ctx._scratch.pop("raw rows", None)
        session = engine.session(200)
        tokens = [3 + i % 200 for i in range(150)]
        for _ in generate(session, tokens, mode="mtp-combined", draft=2, stop=(), limit=5):
            pass
        used = {name: array.nbytes for name, array in engine.ops.ctx._scratch.items()}
        plan = engine.memory_estimate(200)

    assert 0.5 * plan.working <= sum(used.values()) <= plan.working, used


def spark_options(folder, recipe, kv, chunk):
    options = options_for(folder, "micro", recipe, kv, chunk)
    spark = dspark_file(folder, "micro", recipe)
    return dataclasses.replace(options, mtp_path=None, dspark_path=spark)


@pytest.mark.parametrize(("recipe", "kv"), [("iq2", "official"), ("f16", "f32")])
def test_the_plan_counts_a_dspark_drafter(device, model_folder, recipe, kv):
    options = spark_options(model_folder, recipe, kv, 64)
    with open_model(options) as files:
        plan = plan_memory(files, options, 320, device=open_device(options))
    empty = held(device)
    with open_engine(options) as engine:
        assert plan == engine.memory_estimate(320)
        left = engine.ops.ctx._scratch.get("raw rows")
        left_bytes = 640 * 8 + 4 + (left.nbytes if left is not None else 0)
        assert held(device) - empty == plan.weights + left_bytes
        before = held(device)
        session = engine.session(320)
        session._checked = engine.ops.new_array((16, engine.shape.n_vocab))
        assert held(device) - before == plan.context + plan.activations
        before = held(device)
        drafter = DsparkDrafter(session)
        assert held(device) - before == plan.drafter
        del drafter
        engine.close()


@pytest.mark.parametrize(("recipe", "chunk"), [("iq2", 200), ("f16", 24)])
def test_working_memory_of_a_dspark_drafter_is_within_the_plan(device, model_folder, recipe, chunk):
    """Its longest pass writes a window of rows, which may be more than the trunk's chunk."""
    options = spark_options(model_folder, recipe, "official", chunk)
    with open_engine(options) as engine:
        engine.ops.ctx._scratch.pop("raw rows", None)
        session = engine.session(200)
        tokens = [3 + i % 200 for i in range(150)]
        for _ in generate(session, tokens, mode="dspark", stop=(), limit=8):
            pass
        used = {name: array.nbytes for name, array in engine.ops.ctx._scratch.items()}
        plan = engine.memory_estimate(200)

    assert 0.5 * plan.working <= sum(used.values()) <= plan.working, (used, plan.working)


class Roomy:
    """What a residency asks of a device with room for everything."""

    driver = None
    relief: list = []  # noqa: RUF012  nobody is asked
    unified = False
    attributes = dict.fromkeys(("host_register", "read_only_register", "pageable_access"), 0)

    def free_bytes(self):
        return 1 << 40


def test_weights_are_arranged_by_the_sizes_that_were_planned(model_folder):
    """Rows that are looked up take other bytes than tiles of the file's rows."""
    options = EngineOptions(
        model_file(model_folder, "micro", "q8_0"), backend="cuda", residency="device"
    )
    with open_files(options.path) as files:
        tensors = [files.weights.trunk.token_embd]
        ops = SimpleNamespace(ctx=SimpleNamespace(device=Roomy()), residency=None)

        CudaOps.arrange(ops, tensors, (), options)

        stored = math.prod(tensors[0].shape) * tensors[0].format.row_bytes(32) // 32
        assert ops.residency.plan.copied_bytes == stored
        assert planned_weight_bytes(Roomy(), tensors, (), options) == stored
