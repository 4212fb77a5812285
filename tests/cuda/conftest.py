"""Kernels under test run natively on this processor, in both lane orders; or on a GPU.

With DS4_TEST_DEVICE=gpu the same tests run on this machine's device, and those that need one join.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cuda.stub.running import session, stub_folder  # noqa: F401  fixtures

# Kernels need numba-cuda's front end (no toolkit, no driver); without it there is nothing to run.
pytest.importorskip("numba_cuda")

HERE = Path(__file__).parent
ON_GPU = os.environ.get("DS4_TEST_DEVICE") == "gpu"


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents and not any(item.iter_markers("cudac")):
            item.add_marker("cuda")


@pytest.fixture(params=["gpu"] if ON_GPU else ["forward", "reverse"])
def ctx(request):
    """A context over the GPU, or over a simulated device with lanes in one order or the other."""
    from engine.ops.cuda.device.context import Context

    if request.param == "gpu":
        from engine.ops.cuda.device.driver import open_device
        from engine.options import EngineOptions

        return Context(open_device(EngineOptions(path=Path(), backend="cuda")))
    from tests.cuda.natsim import NatsimDevice

    return Context(NatsimDevice(reverse=request.param == "reverse"))
