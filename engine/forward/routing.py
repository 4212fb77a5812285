"""Collects which experts ran while tokens are evaluated; computes nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.forward.probe import Tap
from engine.ops.operands import Array


@dataclass(frozen=True, slots=True)
class Routing:
    """Which experts ran, per layer and token.

    Parameters
    ----------
    ids : int32 array of shape (n_layer, n, n_expert_used)
        In the router's order.
    margin : float32 array of shape (n_layer, n)
        Gap between the last kept and the first dropped expert; infinite in hash-routed layers,
        whose experts do not depend on scores.
    """

    ids: np.ndarray
    margin: np.ndarray


def routing_tap(collected: Routing, start: int, stop: int) -> Tap:
    """A tap that stores what rows `start` to `stop` of `collected` are of."""

    def tap(name: str, layer: int, array: Array) -> None:
        if name == "expert_ids":
            collected.ids[layer, start:stop] = np.asarray(array)
        elif name == "expert_margin":
            collected.margin[layer, start:stop] = np.asarray(array)

    return tap
