"""One launch for what follows the first projections: the bits of the ops one by one."""

from __future__ import annotations

import numpy as np
import pytest

from engine.ops.cuda import sizes
from engine.ops.cuda.attention.attention_rows import Pooling, attention_rows, fits
from engine.ops.cuda.products import act
from engine.ops.cuda.rows.compressor import compressor_pool, compressor_store
from engine.ops.cuda.rows.kv import kv_store
from engine.ops.cuda.rows.norm import rms_norm
from engine.ops.operands import Windows
from tests.cuda.rows import angles, poisoned, same_bits

EPS = 1e-6
D_Q, HALF, CAP = 96, 32, 140
RING_ROWS = {4: 32, 128: 256}


class Layer:
    """Arrays of one layer, the same in every copy."""

    def __init__(self, ctx, ratio, d, d_idx, official):
        rng = np.random.default_rng(3)
        self.ctx, self.ratio, self.official = ctx, ratio, official
        self.rng = rng
        stored = np.float16 if official else np.float32
        self.ring = ctx.zeros((CAP, d), stored)
        self.q_norm, self.kv_norm, self.comp_norm = (
            ctx.put(rng.normal(1, 0.2, size).astype(np.float32)) for size in (D_Q, d, d)
        )
        self.tables = [ctx.put(t) for t in angles(rng, 700, HALF)]
        self.d, self.d_idx = d, d_idx
        self.comp = self.rings = self.idx_rings = None
        if ratio:
            self.comp = ctx.zeros((180, d), stored)
            self.rings, self.ape = self._compressor(d)
            if ratio == 4:
                self.idx_rings, self.idx_ape = self._compressor(d_idx)

    def _compressor(self, d):
        width = 2 * d if self.ratio == 4 else d
        rings = [self.ctx.zeros((RING_ROWS[self.ratio], width)) for _ in range(2)]
        return rings, self.ctx.put(self.rng.normal(0, 1, (self.ratio, width)).astype(np.float32))

    def inputs(self, n):
        """Projections of n rows."""
        widths = [D_Q, self.d]
        for d in (self.d, self.d_idx) if self.ratio == 4 else (self.d,) * bool(self.ratio):
            widths += [2 * d if self.ratio == 4 else d] * 2
        return [self.ctx.put(self.rng.normal(0, 2, (n, w)).astype(np.float32)) for w in widths]

    def _same_forms(self, q_a):
        """The forms that were kept are those that `act` makes."""
        ctx, n, n_pad = self.ctx, len(q_a), sizes.padded(len(q_a))
        copy = ctx.put(np.asarray(q_a))
        kept, made = (act.quantised(ctx, x, 32, n_pad) for x in (q_a, copy))
        assert kept.codes.address != made.codes.address
        assert np.array_equal(np.asarray(kept.codes)[:n], np.asarray(made.codes)[:n])
        assert same_bits(np.asarray(kept.scales)[:, :n], np.asarray(made.scales)[:, :n])
        kept, made = (act.split(ctx, x, "F16", n_pad) for x in (q_a, copy))
        assert np.array_equal(np.asarray(kept.parts)[:, :n], np.asarray(made.parts)[:, :n])
        assert same_bits(np.asarray(kept.scales)[:n], np.asarray(made.scales)[:n])

    def run(self, pos, fused, q_a, kv, *rest):
        """Everything that the call writes, as host arrays."""
        ctx, ratio, n = self.ctx, self.ratio, len(q_a)
        ctx.pos[...] = np.array([pos], np.int32)
        pooling = indexing = None
        if ratio:
            n_pool = (n + ratio - 1) // ratio
            pooling = Pooling(poisoned(ctx, (n_pool, self.d)), *self.rings, *rest[:2], self.ape)
            if ratio == 4:
                idx_pooled = poisoned(ctx, (n_pool, self.d_idx))
                indexing = Pooling(idx_pooled, *self.idx_rings, *rest[2:], self.idx_ape)
        if fused:
            attention_rows(
                ctx,
                *(q_a, self.q_norm, self.ring, kv, self.kv_norm, *self.tables, ctx.pos),
                *(EPS, self.official, ratio, self.comp, self.comp_norm, pooling, indexing),
                ("Q8_0", "F16"),
            )
            self._same_forms(q_a)

        else:
            rms_norm(ctx, q_a, q_a, self.q_norm, EPS)
            kv_store(ctx, self.ring, kv, self.kv_norm, *self.tables, ctx.pos, EPS, self.official)
            for p in (pooling, indexing):
                if p is not None:
                    arrays = (p.pooled, p.ring_kv, p.ring_score, p.kv, p.score, p.ape)
                    compressor_pool(ctx, *arrays, ctx.pos, ratio)
            if ratio:
                windows = Windows(ratio, n, n_pool, *self.tables)
                compressor_store(
                    ctx, self.comp, pooling.pooled, self.comp_norm, windows, ctx.pos, EPS,
                    self.official,
                )  # fmt: skip
        found = [q_a, self.ring]
        if ratio:
            found += [self.comp, *self.rings, pooling.pooled]
        if indexing:
            found += [*self.idx_rings, indexing.pooled]
        return [np.array(a) for a in found]


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize(("ratio", "d", "d_idx"), [(0, 192, 0), (4, 192, 128), (128, 576, 0)])
def test_bits_of_the_ops_one_by_one(ctx, ratio, d, d_idx, official):
    one, other = (Layer(ctx, ratio, d, d_idx, official) for _ in range(2))
    pos = 0
    for n in (1, 1, 1, 1, 2, 5, 16, 1, 100, 16, 13, 3, 1, 1, 100, 7):
        assert fits(min(n, 16), ratio, D_Q, d, HALF, official, RING_ROWS.get(ratio, 0))
        args, copies = one.inputs(n), other.inputs(n)
        # Long calls only move the position on; they are no decode step.
        found = one.run(pos, n <= 16, *args)
        expected = other.run(pos, False, *copies)
        for x, y in zip(found, expected, strict=True):
            if x.dtype == np.float16:
                x, y = x.astype(np.float32), y.astype(np.float32)
            assert same_bits(x, y)
        pos += n


def test_calls_whose_rows_replace_what_is_read_do_not_fit():
    assert fits(25, 4, 64, 192, 32, True, 32) and not fits(26, 4, 64, 192, 32, True, 32)
    assert fits(129, 128, 64, 192, 32, True, 256) and not fits(130, 128, 64, 192, 32, True, 256)
    assert not fits(1, 4, 4096, 192, 32, True, 32)
    assert not fits(1, 4, 66, 192, 32, True, 32)
