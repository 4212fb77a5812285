"""How far a block is drafted, by rule alone: a clock that is made up, and no model."""

from __future__ import annotations

import numpy as np

from engine.spec.protocol import N_BIN, Drafts, SpecStats, StepResult
from engine.spec.schedule import FIRST_WAIT, Schedule


class Machine:
    """Steps of a schedule on a machine whose costs are known.

    Parameters
    ----------
    sure : callable
        Confidence of a slot; the share of drafts that are kept is `truth` of it.
    block, row : float
        Seconds of a block, and of each row verified beyond the first (which takes 1).
    """

    def __init__(self, sure, block, row, truth=lambda p: p, seed=0):
        self.schedule = Schedule(5)
        self.sure, self.block, self.row, self.truth = sure, block, row, truth
        self.rng = np.random.default_rng(seed)
        self.seconds = 0.0
        self.tokens = 0
        self.depths: list[int] = []

    def step(self):
        schedule = self.schedule
        if not schedule.choose():
            schedule.observe_plain(1.0)
            self._count(1, 1.0, 0)
            return
        drafts = Drafts()
        for slot in range(5):
            p = self.sure(slot)
            if not schedule.goes_on(slot, p):
                break
            drafts.tokens.append(0)
            drafts.confidences.append(p)
        kept = 0
        while kept < len(drafts.tokens) and self.rng.random() < self.truth(self.sure(kept)):
            kept += 1
        verify = 1 + self.row * len(drafts.tokens)
        schedule.observe(drafts, kept, self.block, verify, 0.0)
        self._count(kept + 1, self.block + verify, len(drafts.tokens))

    def _count(self, tokens, seconds, depth):
        self.tokens += tokens
        self.seconds += seconds
        self.depths.append(depth)

    def run(self, n):
        for _ in range(n):
            self.step()
        return self


def test_sure_drafts_are_all_made():
    machine = Machine(lambda slot: 0.95, block=0.5, row=0.1).run(400)
    assert np.mean(np.array(machine.depths[50:]) == 5) > 0.9
    assert machine.tokens > 1.8 * machine.seconds


def test_a_drafter_that_never_pays_costs_hardly_anything():
    """Of a long run: the first trials, and tries that become ever rarer."""
    machine = Machine(lambda slot: 0.1, block=1.0, row=0.3).run(4000)
    assert machine.tokens > 0.97 * machine.seconds
    tried = np.flatnonzero(machine.depths)
    assert tried[-1] - tried[-2] > FIRST_WAIT if len(tried) > 1 else True


def test_text_that_becomes_easy_is_drafted_again():
    machine = Machine(lambda slot: 0.05, block=0.6, row=0.1).run(600)
    machine.sure = lambda slot: 0.97
    machine.run(1200)
    assert np.mean(machine.depths[-300:]) > 4


def test_depth_follows_confidence():
    """Two sure slots and three hopeless ones, rows dear: two are drafted."""
    machine = Machine(lambda slot: 0.95 if slot < 2 else 0.05, block=0.2, row=0.4).run(300)
    assert np.median(machine.depths[40:]) == 2


def test_confidences_that_boast_are_calibrated():
    boast = Machine(lambda slot: 0.9, block=0.3, row=0.3, truth=lambda p: 0.55).run(800)
    assert all(slope < 0.7 for slope in boast.schedule._slopes[:1])
    humble = Machine(lambda slot: 0.6, block=0.1, row=0.05, truth=lambda p: 0.97).run(800)
    assert humble.schedule._slopes[0] > 1.5


def test_reliability_counts_judged_drafts_only():
    stats = SpecStats()
    drafts = Drafts([1, 2, 3], [None] * 3, [0.95, 0.31, 1.0])
    stats.add(StepResult([9, 1], 4, 3, 1, drafts=drafts))
    assert len(stats.reliability) == 2, "the third draft was not looked at"
    assert stats.reliability[0][9] == [1, 1, 0.95, (0.95 - 1) ** 2]
    assert stats.reliability[1][3] == [1, 0, 0.31, 0.31**2]
    assert sum(row[0] for table in stats.reliability for row in table) == 2
    assert len(stats.reliability[0]) == N_BIN
    assert stats.by_position == [[1, 1], [1, 0], [1, 0], [0, 0]]
