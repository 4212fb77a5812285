"""compute-sanitizer over a small model on a GPU; it must find two planted faults, and no other."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from engine.errors import BackendError
from engine.ops.cuda.device.context import Context
from tests.cuda.check import tool
from tests.cuda.conftest import ON_GPU
from tests.cuda.natsim import NatsimDevice, SimulationError
from tests.cuda.sanitized import planted_beyond, planted_race
from tests.engine.models import model_file

FOUND = 9  # exit code of a run with findings

needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not ON_GPU, reason="needs DS4_TEST_DEVICE=gpu")]


@pytest.fixture(scope="module")
def sanitizer():
    try:
        return tool("compute-sanitizer")
    except BackendError as error:
        pytest.skip(str(error))


def watch(sanitizer, name, *arguments):
    """Exit code and output of a watched run; refusals by the driver are not findings."""
    command = [sanitizer, "--tool", name, "--error-exitcode", str(FOUND), "--print-limit", "10"]
    command += ["--report-api-errors", "no", "--launch-timeout", "120"]
    if name == "memcheck":
        command += ["--padding", "512"]
    command += [sys.executable, "-m", "tests.cuda.sanitized", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    return done.returncode, done.stdout + done.stderr


class TestOnAGpu:
    pytestmark = needs_gpu

    @pytest.mark.parametrize(
        ("name", "fault", "says"),
        [("memcheck", "beyond", "Invalid __global__ write"), ("racecheck", "race", "hazard")],
    )
    def test_a_planted_fault_is_found(self, sanitizer, name, fault, says):
        code, text = watch(sanitizer, name, fault)
        assert code == FOUND and says in text, text

    @pytest.mark.parametrize("name", ["memcheck", "racecheck"])
    @pytest.mark.parametrize("recipe", ["iq2", "q4", "f16"])
    def test_a_session_has_no_findings(self, sanitizer, model_folder, name, recipe):
        path = model_file(model_folder, "micro", recipe)
        code, text = watch(sanitizer, name, path, "graph" if name == "memcheck" else "prepared")
        assert code == 0 and "SUMMARY: 0 " in text, text


# The plants themselves, without a GPU.


def words():
    ctx = Context(NatsimDevice())
    return ctx, ctx.put(np.arange(64, dtype=np.uint32))


def test_the_simulator_finds_the_write_beyond():
    ctx, x = words()
    with pytest.raises(SimulationError):
        ctx.launch(planted_beyond, (1,), x, 32)


def test_the_race_is_one():
    """Lanes in order read words that are not written yet."""
    ctx, x = words()
    ctx.launch(planted_race, (1,), x)
    assert np.any(np.asarray(x) != np.arange(64)[::-1])
