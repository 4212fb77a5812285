"""Computes how many bytes a decode step reads, and measures how fast this machine reads.

Together they say how fast decoding could be if memory were the only limit.

A percentage is never taken from a constant: bytes come from the file that ran, and the machine's
rate from a read benchmark on the threads that the model uses.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from engine.options import DSPARK_MODES
from engine.shape import Shape
from engine.tooling.results.environment import usable_cores
from engine.weights.bind import MtpWeights, TrunkWeights, iter_tensors
from engine.weights.dspark.bind import DsparkWeights
from engine.weights.files import ModelWeights
from engine.weights.traffic import INDEX_VALUE_BYTES, decode_traffic, distinct_experts

_LEAST_BUFFER = 256 << 20
_MOST_BUFFER = 1 << 30


def read_bandwidth(
    threads: int | None = None,
    n_bytes: int | None = None,
    passes: int = 5,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> float:
    """Best sequential read rate of this machine, in bytes per second: the best of `read_rates`."""
    return max(read_rates(threads, n_bytes, passes, clock), default=0.0)


def read_rates(
    threads: int | None = None,
    n_bytes: int | None = None,
    passes: int = 5,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> list[float]:
    """Sequential read rate of this machine in each of some passes, in bytes per second.

    Every thread sums its own part of an array that no cache holds; numpy's reduction over
    integers runs without the interpreter lock and faster than memory delivers.

    Parameters
    ----------
    threads : int or None
        None: the cores that this process may use.
    n_bytes : int or None
        Size of the array; None: four times the largest cache, within 256 MiB to 1 GiB.
    passes : int
        The first one, which touches the pages, is not counted.

    Returns
    -------
    list of float
        One for each pass that took any time.
    """
    threads = threads or usable_cores()
    if n_bytes is None:
        n_bytes = min(max(4 * largest_cache(), _LEAST_BUFFER), _MOST_BUFFER)
    # ones, not zeros: untouched zero pages would all be one page in the cache.
    parts = np.array_split(np.ones(n_bytes // 8, np.uint64), threads)
    rates = []
    with ThreadPoolExecutor(threads) as pool:
        for i in range(passes + 1):
            start = clock()
            total = sum(int(part) for part in pool.map(_read, parts))
            took = clock() - start
            assert total == n_bytes // 8, total
            if i and took > 0:
                rates.append(n_bytes / (took * 1e-9))
    return rates


def _read(part: np.ndarray) -> int:
    return int(part.sum())


def largest_cache() -> int:
    """Bytes of the largest processor cache (source: /sys), 0 if unknown."""
    best = 0
    root = "/sys/devices/system/cpu/cpu0/cache"
    try:
        for entry in os.listdir(root):
            if entry.startswith("index"):
                with open(f"{root}/{entry}/size", encoding="ascii") as file:
                    text = file.read().strip()
                scale = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
                best = max(best, int(text.rstrip("KMG")) * scale)
    except (OSError, ValueError):
        pass
    return best


class DecodeBytes:
    """Bytes that the steps of one decode window had to read.

    Parameters
    ----------
    weights : ModelWeights
    kv : str
        How rows are stored (see `EngineOptions`).
    """

    def __init__(self, weights: ModelWeights, kv: str = "official") -> None:
        self.shape = weights.shape
        self.index_bytes = INDEX_VALUE_BYTES[kv]
        self.trunk = weights.trunk
        shape, trunk, mtp, dspark = weights.shape, weights.trunk, weights.mtp, weights.dspark
        self.draft_bytes = 0.0 if mtp is None else _draft_bytes(shape, trunk, mtp)
        # Of a block, and of each slot behind it.
        self.block_bytes = self.slot_bytes = 0.0
        if dspark is not None:
            self.slot_bytes = float(dspark.markov_w2.n_bytes)
            self.block_bytes = _block_bytes(shape, trunk, dspark)
        self._passes: dict[tuple[int, int], float] = {}

    def row_pass(self, n_ctx: int, n_rows: int) -> float:
        """Bytes of one pass of the trunk over `n_rows` tokens."""
        key = n_ctx, n_rows
        if key not in self._passes:
            self._passes[key] = decode_traffic(
                self.shape, self.trunk, n_ctx, n_rows, idx_value_bytes=self.index_bytes
            ).total
        return self._passes[key]

    def per_step(
        self, mode: str, n_ctx: int, tokens: Sequence[int], drafted: Sequence[int]
    ) -> float:
        """Mean bytes of a step.

        Parameters
        ----------
        mode : str
        n_ctx : int
            Context in the middle of the window.
        tokens, drafted : sequences of int
            Committed and drafted tokens of each step.
        """
        total = sum(drafted) * (self.slot_bytes if mode in DSPARK_MODES else self.draft_bytes)
        if mode in DSPARK_MODES:
            total += sum(1 for n in drafted if n) * self.block_bytes
        for committed, proposed in zip(tokens, drafted):
            if mode in ("mtp-combined", "dspark"):
                rows: tuple[int, ...] = (proposed + 1,)
            elif mode == "mtp-batched":
                rows = (1, proposed + 1) if proposed else (1,)
            else:
                # plain and strict evaluate each committed token alone
                rows = (1,) * committed
            total += sum(self.row_pass(n_ctx, n) for n in rows)
        return total / max(len(tokens), 1)


def _draft_bytes(shape: Shape, trunk: TrunkWeights, mtp: MtpWeights) -> float:
    """One call of the MTP block: its own weights, used experts only, and the shared head."""
    total = float(trunk.output.n_bytes)
    for tensor in iter_tensors(mtp):
        share = 1.0
        if "_exps" in tensor.name:
            share = shape.n_expert_used / shape.n_expert
        elif "token_embd" in tensor.name:
            share = 1.0 / tensor.shape[0]
        total += tensor.n_bytes * share
    return total


def _block_bytes(shape: Shape, trunk: TrunkWeights, dspark: DsparkWeights) -> float:
    """One block of a DSpark drafter: stages with the experts that its rows are expected to pick."""
    picked = distinct_experts(shape.n_expert, shape.n_expert_used, dspark.spark.block)
    total = float(trunk.output.n_bytes)
    for tensor in dspark.tensors:
        if "markov_w" not in tensor.name:
            share = picked / shape.n_expert if "_exps" in tensor.name else 1.0
            total += tensor.n_bytes * share
    return total
