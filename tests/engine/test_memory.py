"""Memory: the estimate holds, and decoding does not grow."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.engine.models import model_file

# A process of its own: what other tests imported and compiled must not count.
SCRIPT = """
import json, re, sys
from pathlib import Path
import numpy as np
from engine import EngineOptions, open_engine

def anonymous():
    text = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\\s+(\\d+)", text).group(1)) << 10

path, ctx, n = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with open_engine(EngineOptions(path=path, threads=2, repack=sys.argv[4])) as engine:
    estimate = engine.memory_estimate(ctx)
    session = engine.session(ctx)
    session.sync([3 + i % 400 for i in range(ctx - n - 1)])
    warm = min(n // 2, 200)
    for i in range(warm):
        session.eval(int(np.argmax(session.logits)))
    before = anonymous()
    for i in range(n - warm):
        session.eval(int(np.argmax(session.logits)))
    print(json.dumps({
        "resident": anonymous(), "before": before, "estimate": estimate.resident,
        "context": estimate.context, "allocated": session.cache.allocated_bytes(),
    }))
"""

RUNTIME = 250 << 20  # interpreter, compiler, libraries


def run(path, ctx, n, repack="off"):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), str(ctx), str(n), repack],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("repack", ["off", "on"])
def test_resident_memory_is_within_the_estimate(model_folder, repack):
    path = model_file(model_folder, "micro", "q8_0")
    run(
        path, 300, 200, repack
    )  # compiles what the disk lacks: a compiler's memory is not a model's
    seen = run(path, 4096, 300, repack)

    assert seen["resident"] <= 1.05 * seen["estimate"] + RUNTIME
    # The context's part of the estimate is what is really allocated.
    assert seen["context"] == pytest.approx(seen["allocated"], rel=0.05)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_twenty_thousand_tokens_grow_nothing_but_the_context(model_folder):
    n, ctx = 20_000, 21_000
    seen = run(model_file(model_folder, "nano", "iq2"), ctx, n)

    # Rows are zero pages until they are written, so the context itself may become resident.
    assert seen["resident"] - seen["before"] <= seen["context"] + (8 << 20)
