"""Whole models on the CUDA kernel set, on a simulated device unless there is a GPU."""

from __future__ import annotations

import pytest

from tests.cuda.conftest import ON_GPU


@pytest.fixture
def on_device(monkeypatch, request):
    """Open the cuda backend on the simulated device, lanes in the order of the parameter."""
    if ON_GPU:
        return
    from engine.ops.cuda.device import driver
    from tests.cuda.natsim import NatsimDevice

    reverse = getattr(request, "param", False)
    monkeypatch.setattr(driver, "open_device", lambda options: NatsimDevice(reverse=reverse))
