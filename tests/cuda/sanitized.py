"""What compute-sanitizer watches on a GPU: every mode of a small model, or one planted fault.

compute-sanitizer --tool memcheck python -m tests.cuda.sanitized MODEL.gguf graph
compute-sanitizer --tool memcheck python -m tests.cuda.sanitized beyond
compute-sanitizer --tool racecheck python -m tests.cuda.sanitized race
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numba import cuda

from engine import EngineOptions, open_engine
from engine.ops.cuda.build.kernel import U32, U32P, kernel

THREADS = 64


@kernel(U32P, U32, threads=THREADS)
def planted_beyond(x, n):
    """Writes 64 words from the n-th on."""
    x[n + U32(cuda.threadIdx.x)] = U32(1)


@kernel(U32P, threads=THREADS)
def planted_race(x):
    """Reads another warp's word of shared memory without waiting for it."""
    held = cuda.shared.array(THREADS, U32)
    t = cuda.threadIdx.x
    held[t] = x[t]
    x[t] = held[THREADS - 1 - t]


def plant(name: str) -> None:
    from engine.ops.cuda.device.context import Context
    from engine.ops.cuda.device.driver import open_device

    ctx = Context(open_device(EngineOptions(path=Path(), backend="cuda")))
    words = ctx.put(np.zeros(THREADS, np.uint32))
    if name == "race":
        ctx.launch(planted_race, (1,), words)
    else:
        ctx.launch(planted_beyond, (1,), words, 32)
    ctx.device.synchronize()


def session(path: Path, launch: str) -> None:
    """Prefill in pieces, single steps, verifications of 2 to 16 rows, a snapshot and its return."""
    options = EngineOptions(path, backend="cuda", launch=launch, prefill_chunk=96, repack="off")
    with open_engine(options) as engine:
        text = np.random.default_rng(8).integers(3, 500, 230).tolist()
        session = engine.session(512)
        session.sync(text)
        held = session.save()
        for token in text[:6]:
            session.eval(token)
        for rows in (2, 3, 8, 16):
            session.verify(text[:rows])
        session.restore(held)
        session.eval(text[0])


if __name__ == "__main__":
    what = sys.argv[1]
    if what in ("beyond", "race"):
        plant(what)
    else:
        session(Path(what), sys.argv[2])
