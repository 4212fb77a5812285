"""Adaptive depth as a rule without a model: what is tried, and tried again."""

from __future__ import annotations

from engine.spec.depth import PROBE, DepthControl
from engine.spec.protocol import Drafts


def drafted(n: int) -> Drafts:
    """Drafts of which only the number matters."""
    return Drafts([0] * n)


def test_every_depth_is_tried_once_before_any_is_preferred():
    control = DepthControl(4, adaptive=True)
    tried = []
    for _ in range(4):
        tried.append(control.choose())
        control.observe(drafted(tried[-1]), 0, 0.0, 1.0, 0.0)
    assert tried == [1, 2, 3, 4]


def test_a_depth_that_lost_is_tried_again_after_a_while_and_can_win():
    """Depth 2 is dear at first and cheap later: only a new try can find that out."""
    control = DepthControl(2, adaptive=True)
    price = {1: 1.0, 2: 9.0}
    chosen = []
    for step in range(16 * PROBE):  # each new try corrects the mean cost by a quarter
        if step == PROBE:
            price[2] = 1.0
        depth = control.choose()
        chosen.append(depth)
        control.observe(drafted(depth), depth, 0.0, price[depth], 0.0)
    first = chosen[2 : PROBE + 1]
    assert first.count(2) <= 1, "a loser is not tried more often than every PROBE steps"
    assert 2 in chosen[PROBE : 2 * PROBE + 2], "but it is tried again"
    assert chosen[-PROBE:].count(2) > PROBE // 2, "and chosen once it is the better one"


def test_without_adaption_the_depth_is_the_most_and_nothing_is_learned():
    control = DepthControl(3, adaptive=False)
    for _ in range(5):
        assert control.choose() == 3
        control.observe(drafted(3), 0, 0.0, 100.0, 0.0)
