"""Kernels under test run natively on this processor; every test runs in both lane orders."""

from __future__ import annotations

import pytest

# Kernels need numba-cuda's front end (no toolkit, no driver); without it there is nothing to run.
pytest.importorskip("numba_cuda")


@pytest.fixture(params=[False, True], ids=["forward", "reverse"])
def ctx(request):
    """A context over a simulated device."""
    from engine.ops.cuda.context import Context
    from engine.ops.cuda.natsim import NatsimDevice

    return Context(NatsimDevice(reverse=request.param))
