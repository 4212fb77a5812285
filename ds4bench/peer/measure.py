"""Two engines in turns on the same token ids: what each took, and where their choices agree.

The engines are known by a narrow interface (`PeerEngine`); nothing here opens a model or prints.
"""

from __future__ import annotations

import csv
import io
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Protocol

import numpy as np
import psutil

from ds4bench.peer.side import Done
from engine.tooling.report.intervals import Interval

CHUNK = 512  # tokens that one side prefills before it is the other's turn
BLOCK = 16  # tokens that one side decodes before it is the other's turn
PAUSE = 0.2  # seconds before each turn, so that spinning workers of the other side go to sleep
WARM_UP = 64  # tokens
SEED = 2026


class PeerEngine(Protocol):
    """One engine under test, in a process of its own."""

    @property
    def name(self) -> str: ...
    @property
    def threads(self) -> int: ...

    def start(self, n_ctx: int) -> None: ...
    def prefill(self, ids: list[int]) -> float: ...
    def decode(self, ids: list[int]) -> Done: ...
    def step_bytes(self, n_ctx: int) -> int | None: ...


@dataclass(frozen=True, slots=True)
class PeerRow:
    """Raw measurement of one side in one repeat at one context; rates are derived when shown.

    Parameters
    ----------
    side : str
    threads : int
        Worker threads, as the side itself says.
    repeat : int
        Counted from 1; each has fresh timelines.
    ctx_tokens, gen_tokens : int
    prefill_s, decode_s : float
        Wall seconds, taken in the side's own process.
    top1_equal : int
        Of the gen_tokens decoded tokens, after how many both sides' most likely token agreed.
    decode_bytes : int or None
        Weight and cache bytes that our engine reads per token here; None for the peer.
    bandwidth : float
        Sequential read bandwidth of this machine, measured just before; bytes per second.
    others_cpu : float
        Part of all cores that other processes used in the second before; 0 to 1. llama.cpp's
        workers spin at barriers, so it loses far more than that part once cores are shared.
    """

    side: str
    threads: int
    repeat: int
    ctx_tokens: int
    gen_tokens: int
    prefill_s: float
    decode_s: float
    top1_equal: int
    decode_bytes: int | None
    bandwidth: float
    others_cpu: float

    @property
    def prefill_tps(self) -> float:
        return self.ctx_tokens / self.prefill_s

    @property
    def decode_tps(self) -> float:
        return self.gen_tokens / self.decode_s

    @property
    def bandwidth_share(self) -> float | None:
        """Part of the measured bandwidth that decode reaches; None where bytes are unknown."""
        if self.decode_bytes is None:
            return None
        return self.decode_bytes * self.decode_tps / self.bandwidth


def others_cpu() -> float:
    """Part of this machine's cores in use during one second in which both sides wait."""
    return float(psutil.cpu_percent(interval=1.0)) / 100


def measure(
    sides: Sequence[PeerEngine], ids: Sequence[int], gen: int, *, reverse: bool = False
) -> tuple[list[float], list[float], int]:
    """Prefill all but the last `gen` ids and decode those, all sides in turns.

    Sides alternate every `CHUNK` prefilled and every `BLOCK` decoded tokens and swap who goes
    first each time, so that a change of clock or load meets all of them. Decoded tokens are given
    (teacher forcing): every side evaluates the same ids.

    Parameters
    ----------
    reverse : bool
        Begin with the last side.

    Returns
    -------
    prefill_s, decode_s : list of float
        Per side, in the order given.
    top1_equal : int
        Decoded tokens after which all sides had the same most likely token.
    """
    n_prompt = len(ids) - gen
    prefill, decode = [0.0] * len(sides), [0.0] * len(sides)
    tops: list[list[int]] = [[] for _ in sides]
    for side in sides:
        side.start(len(ids))
    order = list(range(len(sides)))
    if reverse:
        order.reverse()
    for first in range(0, n_prompt, CHUNK):
        part = list(ids[first : min(first + CHUNK, n_prompt)])
        for i in order:
            time.sleep(PAUSE)
            prefill[i] += sides[i].prefill(part)
        order.reverse()
    for first in range(n_prompt, len(ids), BLOCK):
        part = list(ids[first : first + BLOCK])
        for i in order:
            time.sleep(PAUSE)
            done = sides[i].decode(part)
            decode[i] += done.seconds
            tops[i] += done.tops
        order.reverse()
    return prefill, decode, sum(len(set(row)) == 1 for row in zip(*tops))


def to_csv(rows: Sequence[PeerRow]) -> bytes:
    """Rows as CSV; an unknown value is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(PeerRow)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if v is None else v for k, v in asdict(row).items()})
    return text.getvalue().encode()


def median_of(values: Sequence[float]) -> Interval:
    """The median, with the least and the greatest value as the bounds of its interval.

    Whatever the distribution, the true median lies between the extremes of n independent values
    with probability 1 - 2**(1 - n) (see `coverage`); one value has no interval.
    """
    known = len(values) > 1
    low, high = (min(values), max(values)) if known else (float("-inf"), float("inf"))
    return Interval(statistics.median(values), low, high)


def coverage(n: int) -> float:
    """Probability that the extremes of n independent values enclose the median."""
    return 1.0 - 2.0 ** (1 - n)


def compare(
    sides: Sequence[PeerEngine],
    n_vocab: int,
    contexts: Sequence[int],
    gen: int,
    repeats: int,
    bandwidth: Callable[[], float],
    done: Callable[[list[PeerRow], bool], None],
    busy: Callable[[], float] = others_cpu,
) -> list[PeerRow]:
    """Measure all sides at every context, several times.

    Parameters
    ----------
    repeats : int
        Fresh timelines at each context; they swap which side begins.
    bandwidth : callable
        Measures how fast memory is read now, bytes per second.
    done : callable
        Called after each repeat with all rows so far, and whether it was the context's last.
    """
    ids = np.random.default_rng(SEED).integers(0, n_vocab, max(contexts) + gen).tolist()
    measure(sides, ids[: WARM_UP + BLOCK], BLOCK)
    rows: list[PeerRow] = []
    for ctx in contexts:
        for repeat in range(1, repeats + 1):
            others, rate = busy(), bandwidth()
            prefill, decode, equal = measure(sides, ids[: ctx + gen], gen, reverse=repeat % 2 == 0)
            for i, side in enumerate(sides):
                rows.append(
                    PeerRow(
                        side.name,
                        side.threads,
                        repeat,
                        ctx,
                        gen,
                        prefill[i],
                        decode[i],
                        equal,
                        # Halfway through the decoded tokens: bytes grow evenly with context.
                        side.step_bytes(ctx + gen // 2),
                        rate,
                        others,
                    )
                )
            done(rows, repeat == repeats)
    return rows
