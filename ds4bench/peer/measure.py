"""Two engines in turns on the same token ids: what each took, and where their choices agree.

The engines are known by a narrow interface (`PeerEngine`); nothing here opens a model or prints.
"""

from __future__ import annotations

import csv
import functools
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Protocol

import numpy as np
import psutil

CHUNK = 512  # tokens that one side prefills before it is the other's turn
BLOCK = 16  # tokens that one side decodes before it is the other's turn
PAUSE = 0.2  # seconds before each turn, so that spinning workers of the other side go to sleep
WARM_UP = 64  # tokens
SEED = 2026


class PeerEngine(Protocol):
    """One engine under test. A turn's work must be finished when a method returns."""

    name: str

    def start(self, n_ctx: int) -> None: ...
    def prefill(self, ids: list[int]) -> None: ...
    def decode(self, token: int) -> None: ...
    def top(self) -> int: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class PeerRow:
    """Raw measurement of one side at one context; rates are derived when shown.

    Parameters
    ----------
    side : str
    ctx_tokens, gen_tokens : int
    prefill_s, decode_s : float
        Wall seconds.
    top1_equal : int
        Of the gen_tokens decoded tokens, after how many both sides' most likely token agreed.
    decode_bytes : int or None
        Weight and cache bytes that our engine reads per token here; None for the peer.
    bandwidth : float
        Measured sequential read bandwidth of this machine, bytes per second.
    others_cpu : float
        Part of all cores that other processes used in the second before; 0 to 1. llama.cpp's
        workers spin at barriers, so it loses far more than that part once cores are shared.
    """

    side: str
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
    """Part of this machine's cores in use during one second in which this process waits."""
    return float(psutil.cpu_percent(interval=1.0)) / 100


def _turn(action: Callable[[], None]) -> float:
    time.sleep(PAUSE)
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _decode_all(side: PeerEngine, ids: Sequence[int], tops: list[int]) -> Callable[[], None]:
    def run() -> None:
        for token in ids:
            side.decode(token)
            tops.append(side.top())

    return run


def measure(
    sides: Sequence[PeerEngine], ids: Sequence[int], gen: int
) -> tuple[list[float], list[float], int]:
    """Prefill all but the last `gen` ids and decode those, all sides in turns.

    Sides alternate every `CHUNK` prefilled and every `BLOCK` decoded tokens and swap who goes
    first each time, so that a change of clock or load meets all of them. Decoded tokens are given
    (teacher forcing): every side evaluates the same ids.

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
    for first in range(0, n_prompt, CHUNK):
        part = list(ids[first : min(first + CHUNK, n_prompt)])
        for i in order:
            prefill[i] += _turn(functools.partial(sides[i].prefill, part))
        order.reverse()
    for first in range(n_prompt, len(ids), BLOCK):
        part = list(ids[first : first + BLOCK])
        for i in order:
            decode[i] += _turn(_decode_all(sides[i], part, tops[i]))
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


def compare(
    sides: Sequence[PeerEngine],
    n_vocab: int,
    contexts: Sequence[int],
    gen: int,
    bandwidth: float,
    bytes_at: Callable[[int], int],
    done: Callable[[list[PeerRow]], None],
    busy: Callable[[], float] = others_cpu,
) -> list[PeerRow]:
    """Measure ours (first) and a peer (second) at every context; `done` after each of them."""
    ids = np.random.default_rng(SEED).integers(0, n_vocab, max(contexts) + gen).tolist()
    measure(sides, ids[: WARM_UP + BLOCK], BLOCK)
    rows: list[PeerRow] = []
    for ctx in contexts:
        others = busy()
        prefill, decode, equal = measure(sides, ids[: ctx + gen], gen)
        for i, side in enumerate(sides):
            # Halfway through the decoded tokens: the mean, as bytes grow evenly with context.
            n_bytes = bytes_at(ctx + gen // 2) if i == 0 else None
            rows.append(
                PeerRow(
                    side.name,
                    ctx,
                    gen,
                    prefill[i],
                    decode[i],
                    equal,
                    n_bytes,
                    bandwidth,
                    others,
                )
            )
        done(rows)
    return rows
