"""Attention against the float64 reference: lists of every kind, both storages, same bits always.

Bound. Scores are float32 sums of up to 512 products whose factors are exact to 2**-22, weights
follow with a relative error of about that of a score times its size (up to 10 here), and outputs
are float32 sums of the weighted rows: together below 2e-6 of the largest output.
"""

from __future__ import annotations

import numpy as np
import pytest

from engine.ops import reference
from engine.ops.cpu.ops import CpuOps
from engine.ops.cuda.attention import attention
from engine.ops.cuda.attention.attention import attend, attend_block
from engine.ops.cuda.rows.rope import rope_tail
from engine.ops.reference.ops import ReferenceOps
from tests.cuda.rows import angles, poisoned, relative, same_bits

BOUND = 2e-6
BOTH = pytest.mark.parametrize("dtype", [np.float16, np.float32])


class Case:
    """Random queries and rows of a call at position pos; `top_k` 0 chooses no rows."""

    def __init__(self, ctx, n, heads, d, pos, ratio, top_k, dtype, n_swa=128, cap=160):
        rng = np.random.default_rng([n, heads, d, pos, ratio, top_k])
        self.ctx, self.pos, self.n_swa, self.ratio = ctx, pos, n_swa, ratio
        self.q = rng.normal(0, 1, (n, heads, d)).astype(np.float32)
        self.ring = rng.normal(0, 1, (cap, d)).astype(dtype)
        self.sinks = rng.normal(0, 2, heads).astype(np.float32)
        self.rows = self.sel = self.n_sel = None
        visible = [(pos + i + 1) // ratio if ratio else 0 for i in range(n)]
        if ratio:
            self.rows = rng.normal(0, 1, (visible[-1] + 5, d)).astype(dtype)
        if top_k:
            self.n_sel = np.array([min(v, top_k) for v in visible], np.int32)
            # What lies behind the chosen rows must not be looked at.
            self.sel = np.full((n, top_k), 2**30, np.int32)
            for i, (v, k) in enumerate(zip(visible, self.n_sel)):
                self.sel[i, :k] = np.sort(rng.permutation(v)[:k])

    def expected(self):
        out = np.empty(self.q.shape)
        reference.attend(
            out, self.q, self.ring, self.rows, self.sel, self.n_sel, self.sinks, self.pos,
            self.n_swa, self.ratio,
        )  # fmt: skip
        return out

    def found(self, first=0, stop=None, turn=None):
        """The device's output of rows first .. stop - 1."""
        ctx, part = self.ctx, slice(first, stop)
        ctx.pos[...] = np.array([self.pos + first], np.int32)
        q = ctx.put(self.q[part])
        out = poisoned(ctx, q.shape)
        ring, sinks = ctx.put(self.ring), ctx.put(self.sinks)
        rows = None if self.rows is None else ctx.put(self.rows)
        sel = None if self.sel is None else ctx.put(self.sel[part])
        n_sel = None if self.n_sel is None else ctx.put(self.n_sel[part])
        attend(ctx, out, q, ring, rows, sel, n_sel, sinks, ctx.pos, self.n_swa, self.ratio, turn)
        return out


@BOTH
@pytest.mark.parametrize(("ratio", "top_k"), [(0, 0), (4, 0), (4, 24), (128, 0)])
@pytest.mark.parametrize("pos", [0, 1, 127, 128, 700])
def test_lists(ctx, pos, ratio, top_k, dtype):
    """From one row to a full window and more; 700 wraps around the ring."""
    case = Case(ctx, 2, 4, 192, pos, ratio, top_k, dtype)
    assert relative(case.found(), case.expected()) < BOUND


@BOTH
@pytest.mark.parametrize(("heads", "d"), [(2, 256), (6, 320), (64, 512), (4, 192), (17, 72)])
@pytest.mark.parametrize("n", [1, 17])
def test_sizes(ctx, n, heads, d, dtype):
    """Heads and dims that fill tiles and that do not; few rows and many."""
    pos = 130 if heads == 64 else 300
    case = Case(ctx, n, heads, d, pos, 4, 40, dtype, n_swa=40)
    assert relative(case.found(), case.expected()) < BOUND


@BOTH
@pytest.mark.parametrize(("ratio", "top_k"), [(0, 0), (4, 24), (4, 0)])
def test_rows_do_not_see_each_other(ctx, ratio, top_k, dtype):
    """One block over the whole list or one block a chunk: the same bits."""
    case = Case(ctx, 17, 6, 192, 120, ratio, top_k, dtype)
    whole = np.asarray(case.found())
    for first, stop in ((0, 1), (1, 3), (3, 8), (8, 17), (16, 17)):
        assert same_bits(case.found(first, stop), whole[first:stop])


@BOTH
def test_lists_too_long_to_split(ctx, dtype, monkeypatch):
    case = Case(ctx, 3, 4, 192, 500, 4, 0, dtype)
    split = case.found()
    monkeypatch.setattr(attention, "SPLIT_BYTES", 0)
    assert same_bits(case.found(), split)


@BOTH
def test_capacity_of_the_rows_changes_nothing(ctx, dtype):
    case = Case(ctx, 2, 4, 192, 300, 4, 0, dtype)
    bits = case.found()
    case.rows = np.concatenate([case.rows, np.full((200, 192), np.nan, dtype)])
    assert same_bits(case.found(), bits)


@BOTH
def test_rows_that_nobody_sees_are_not_looked_at(ctx, dtype):
    """NaN outside the window, and beyond the last compressed row."""
    case = Case(ctx, 2, 4, 192, 700, 128, 0, dtype)
    expected = case.expected()
    seen = np.arange(700 - 127, 702) % len(case.ring)
    case.ring[np.setdiff1d(np.arange(len(case.ring)), seen)] = np.nan
    case.rows[702 // 128 :] = np.nan
    assert relative(case.found(), expected) < BOUND


@BOTH
@pytest.mark.parametrize("n", [1, 17])
def test_a_large_score_is_no_overflow(ctx, n, dtype):
    """Scores of thousands, where only the row itself counts, and a sink that outweighs all."""
    case = Case(ctx, n, 4, 192, 200, 4, 8, dtype)
    case.ring *= dtype(40)
    case.q *= np.float32(40)
    case.sinks[1] = 1e6
    found, expected = np.asarray(case.found()), case.expected()
    # Scores of up to 1e4 are known to 2**-21 of that, so weights to about 1e-2 where two compete.
    assert np.abs(found - expected).max() < 2e-2 * np.abs(expected).max()
    assert (found[:, 1] == 0).all()


@BOTH
@pytest.mark.parametrize("n", [2, 17])
def test_the_turn_back_is_rope_tail_s(ctx, n, dtype):
    case = Case(ctx, n, 3, 192, 100, 4, 8, dtype)
    tables = [ctx.put(t) for t in angles(np.random.default_rng(3), 128, 32)]
    apart = case.found()
    rope_tail(ctx, apart, *tables, True)
    assert same_bits(case.found(turn=tables), apart)


@BOTH
def test_nan_in_a_row_reaches_every_head(ctx, dtype):
    case = Case(ctx, 1, 4, 192, 60, 0, 0, dtype)
    case.ring[30, 5] = np.nan
    assert np.isnan(np.asarray(case.found())).any(axis=2).all()


@BOTH
@pytest.mark.parametrize(("ratio", "top_k"), [(4, 0), (4, 24)])
def test_rows_in_turns_and_a_horizon_give_the_same_bits(ctx, ratio, top_k, dtype, monkeypatch):
    """However many rows are split at once, and however few chunks are launched for."""
    case = Case(ctx, 5, 4, 72, 700, ratio, top_k, dtype)
    whole = case.found()
    ctx.horizon = 708
    assert same_bits(case.found(), whole)
    chunks = -(-(128 + (top_k or 177)) // 32)
    monkeypatch.setattr(attention, "SPLIT_BYTES", 2 * chunks * 4 * 74 * 4)
    launch, joins = ctx.device.launch, []

    def counted(kernel, grid, args):
        joins.extend(grid[2:] if kernel.name == "attention_join" else ())
        launch(kernel, grid, args)

    monkeypatch.setattr(ctx.device, "launch", counted)
    assert same_bits(case.found(), whole)
    assert joins == [2, 2, 1]


@BOTH
@pytest.mark.parametrize(
    ("pos", "before"), [(0, 128), (1, 128), (126, 128), (128, 128), (300, 128), (300, 3), (300, 0)]
)
def test_rows_of_a_block_see_the_same_rows_and_all_of_the_block(ctx, pos, before, dtype):
    """Also the rows behind each; of those before the block, no more than there are."""
    n, heads, d, cap = 5, 4, 192, 160
    rng = np.random.default_rng([pos, before])
    q = rng.normal(0, 1, (n, heads, d)).astype(np.float32)
    sinks = np.tile(rng.normal(0, 2, heads).astype(np.float32), n)
    ring = np.full((cap, d), np.nan, dtype)
    seen = np.arange(max(pos - before, 0), pos + n) % cap
    ring[seen] = rng.normal(0, 1, (len(seen), d))
    expected = np.empty(q.shape)
    # Alone in the ring, a row's list is what the last row of a call with a wide window sees.
    for i in range(n):
        alone = expected[i : i + 1]
        arguments = (q[i : i + 1], ring[seen], None, None, None, sinks[:heads], len(seen) - 1)
        reference.attend(alone, *arguments, len(seen), 0)

    ctx.pos[...] = np.array([pos], np.int32)
    out = poisoned(ctx, q.shape)
    attend_block(ctx, out, ctx.put(q), ctx.put(ring), ctx.put(sinks), ctx.pos, before)

    assert relative(out, expected) < BOUND
    for set_in_host_memory in (ReferenceOps(), CpuOps()):
        found, rows = np.empty(q.shape, np.float32), ring.astype(np.float32)
        set_in_host_memory.attend_block(found, q, rows, sinks, pos, before)
        assert relative(found, expected) < BOUND


def test_a_block_of_the_published_size(ctx):
    """64 heads of 512 dims, five rows: 320 heads of one query."""
    rng = np.random.default_rng(9)
    q = rng.normal(0, 1, (5, 64, 512)).astype(np.float32)
    ring = rng.normal(0, 1, (256, 512)).astype(np.float16)
    sinks = np.tile(rng.normal(0, 2, 64).astype(np.float32), 5)
    expected = np.empty(q.shape, np.float32)
    ReferenceOps().attend_block(expected, q, ring, sinks, 600, 128)
    ctx.pos[...] = np.array([600], np.int32)
    out = poisoned(ctx, q.shape)
    attend_block(ctx, out, ctx.put(q), ctx.put(ring), ctx.put(sinks), ctx.pos, 128)
    assert relative(out, expected) < BOUND
