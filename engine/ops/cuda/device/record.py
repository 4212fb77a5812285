"""What a recorded pass consists of: entries, what each reads and writes, and which wait for which.

An entry's effects are whole allocations: a pointer that a kernel takes stands for all of the memory
that it points into. That is coarse and safe. Two entries may run in any order, or at once, unless
one of them writes an allocation that the other touches; `dependencies` says so as edges of a graph.
Nothing here launches or allocates.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from numba.cuda import types

from engine.ops.cuda.build.kernel import Kernel


@dataclass(slots=True)
class Entry:
    """One launch, copy or fill of a recorded pass.

    Parameters
    ----------
    kind : {'launch', 'copy', 'fill'}
    values : tuple
        Of a launch: its arguments, addresses and scalars. Of a copy: target, source, bytes. Of a
        fill: target, byte, bytes.
    kernel, grid : Kernel and (int, int, int), or None
        Of a launch.
    reads, writes : frozenset of int
        Allocations, by their first address; `reads` without those that are written, too.
    weight_bytes : int
        Bytes of weights that a launch reads.
    """

    kind: str
    values: tuple[Any, ...]
    kernel: Kernel | None = None
    grid: tuple[int, int, int] | None = None
    reads: frozenset[int] = field(default=frozenset())
    writes: frozenset[int] = field(default=frozenset())
    weight_bytes: int = 0

    @property
    def name(self) -> str:
        """The kernel's name, or the kind of a copy or fill."""
        return self.kind if self.kernel is None else self.kernel.name


class Extents:
    """Live allocations of a device by address."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._sizes: dict[int, int] = {}

    def add(self, address: int, n_bytes: int) -> None:
        insort(self._starts, address)
        self._sizes[address] = n_bytes

    def remove(self, address: int) -> None:
        self._starts.pop(bisect_right(self._starts, address) - 1)
        del self._sizes[address]

    def holding(self, address: int) -> int | None:
        """First address of the allocation that an address lies in; None: it lies in none."""
        at = bisect_right(self._starts, address) - 1
        if at < 0:
            return None
        start = self._starts[at]
        return start if address < start + self._sizes[start] else None


def effects(
    kernel: Kernel, values: Sequence[Any], extents: Extents
) -> tuple[frozenset[int], frozenset[int]]:
    """What a launch reads and what it writes, as allocations.

    A 64-bit number that is no address (a stride, say) is small and lies in no allocation. Memory
    that is no allocation (weights that are read where a file is mapped) is known by the address
    itself; nothing writes it.
    """
    reads: set[int] = set()
    writes: set[int] = set()
    for kind, written, value in zip(kernel.args, kernel.written, values):
        pointer = isinstance(kind, types.CPointer)
        if not value or not (pointer or kind == types.uint64):
            continue
        start = extents.holding(int(value))
        if start is None and not pointer:
            continue
        (writes if written else reads).add(int(value) if start is None else start)
    return frozenset(reads - writes), frozenset(writes)


def dependencies(log: Sequence[Entry]) -> list[tuple[int, ...]]:
    """For every entry of a pass, the earlier ones that it must wait for, none of them implied.

    An entry waits for the last writer of whatever it touches, and if it writes, for those that
    read what was there. An entry that is waited for through another one is left out.

    Returns
    -------
    list of tuple of int
        Places in the log, ascending.
    """
    writer: dict[int, int] = {}
    readers: dict[int, list[int]] = {}
    before: list[int] = []  # of every entry, a bit for each that is done when it begins
    found: list[tuple[int, ...]] = []
    for at, entry in enumerate(log):
        wanted = {writer[a] for a in entry.reads | entry.writes if a in writer}
        wanted |= {r for a in entry.writes for r in readers.get(a, ())}
        kept, done = [], 0
        for other in sorted(wanted, reverse=True):
            if not done >> other & 1:
                kept.append(other)
                done |= before[other] | 1 << other
        before.append(done)
        found.append(tuple(reversed(kept)))
        for a in entry.writes:
            writer[a], readers[a] = at, []
        for a in entry.reads:
            readers.setdefault(a, []).append(at)
    return found
