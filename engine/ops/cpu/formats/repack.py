"""Making the interleaved copy of a weight, panel by panel, on all threads."""

from __future__ import annotations

import numpy as np

from engine.ops.cpu.products import (
    D_BLOCKS,
    D_COLS,
    D_DATA,
    D_EXPERT_BYTES,
    D_PACK,
    D_PANEL_BYTES,
    D_ROW_BYTES,
    D_ROWS,
)
from engine.ops.cpu.runtime.jit import kernel
from engine.ops.cpu.runtime.jobs import COST, FN, JOB_BYTES, OUT, UNITS, N, W, run, scratch, team
from engine.ops.cpu.runtime.leaf import call5, leaf, load_i64, store_i64


@leaf
def _panels(job, u0, u1):
    w = load_i64(job + W)
    rows, stride = load_i64(w + D_ROWS), load_i64(w + D_ROW_BYTES)
    groups = (rows + 15) // 16
    for u in range(u0, u1):
        expert, g = u // groups, u % groups
        src = load_i64(w + D_DATA) + expert * load_i64(w + D_EXPERT_BYTES) + 16 * g * stride
        panel = load_i64(job + OUT) + u * load_i64(w + D_PANEL_BYTES)
        n_rows = min(16, rows - 16 * g)
        call5(load_i64(w + D_PACK), src, stride, n_rows, load_i64(w + D_BLOCKS), panel)


@kernel
def _run(fn, w, base, n_panels, space, team):
    store_i64(space + FN, fn)
    store_i64(space + N, 1)
    store_i64(space + UNITS, n_panels)
    store_i64(space + COST, 16 * load_i64(w + D_COLS))
    store_i64(space + W, w)
    store_i64(space + OUT, base)
    run(space, 1, team)


def repack(fields: np.ndarray, base: int, n_panels: int) -> None:
    """Write all panels of the weight described by `fields`, still in place, to address base."""
    space = scratch(JOB_BYTES)
    _run(_panels.address, fields.ctypes.data, base, n_panels, space, team())
