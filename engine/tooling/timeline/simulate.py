"""A pass in time: launches that wait for each other and share the memory's rate.

A launch begins when all that it waits for have ended, takes its fixed part, and then streams its
bytes; launches that stream at once share the machine's rate, none beyond its own. Nothing else is
modelled: no caches, no multiprocessors that run out.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """A launch: microseconds before it streams, MB, MB per microsecond, places that it follows."""

    name: str
    fixed: float
    megabytes: float
    rate: float
    before: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Ends of all launches in microseconds, and the places of those that decide the last."""

    ends: tuple[float, ...]
    critical: tuple[int, ...]

    @property
    def total(self) -> float:
        return max(self.ends, default=0.0)


def simulate(nodes: Sequence[Node], read: float, gap: float, join: float) -> Timeline:
    """Run the launches.

    Parameters
    ----------
    nodes : sequence of Node
        Each follows earlier ones only.
    read : float
        Rate of the machine, MB per microsecond.
    gap, join : float
        Microseconds between launches; see `machines.Machine`.
    """
    waits = [len(node.before) for node in nodes]
    after: list[list[int]] = [[] for _ in nodes]
    for at, node in enumerate(nodes):
        for other in node.before:
            after[other].append(at)
    ends = [0.0] * len(nodes)
    last = [-1] * len(nodes)  # the one that each waited for longest
    ready = [(gap + node.fixed, at) for at, node in enumerate(nodes) if not node.before]
    heapq.heapify(ready)
    streaming: dict[int, float] = {}
    now = 0.0

    def finish(at: int) -> None:
        ends[at] = now
        for other in after[at]:
            waits[other] -= 1
            last[other] = at
            if not waits[other]:
                more = join * (len(nodes[other].before) - 1)
                heapq.heappush(ready, (now + gap + more + nodes[other].fixed, other))

    while ready or streaming:
        rates = _shared(streaming, nodes, read)
        step = min([ready[0][0] - now] if ready else [], default=float("inf"))
        step = min([step, *(streaming[at] / rate for at, rate in rates.items())])
        now += step
        for at, rate in rates.items():
            streaming[at] -= rate * step
        for at in [at for at, left in streaming.items() if left < 1e-9]:
            del streaming[at]
            finish(at)
        while ready and ready[0][0] <= now + 1e-12:
            _, at = heapq.heappop(ready)
            if nodes[at].megabytes > 0:
                streaming[at] = nodes[at].megabytes
            else:
                finish(at)
    critical = []
    at = ends.index(max(ends)) if ends else -1
    while at >= 0:
        critical.append(at)
        at = last[at]
    return Timeline(tuple(ends), tuple(reversed(critical)))


def _shared(streaming: dict[int, float], nodes: Sequence[Node], read: float) -> dict[int, float]:
    """Rate of each launch that streams: an equal share, what a slow one leaves going to others."""
    left, rates = read, {}
    waiting = sorted(streaming, key=lambda at: nodes[at].rate or read)
    for k, at in enumerate(waiting):
        share = left / (len(waiting) - k)
        rates[at] = min(nodes[at].rate or read, share)
        left -= rates[at]
    return rates
