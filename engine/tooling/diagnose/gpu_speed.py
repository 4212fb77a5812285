"""Where the time of a pass goes on a CUDA device: steps, bytes, bandwidth, kernel by kernel."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from engine.engine import Engine, open_engine
from engine.options import EngineOptions
from engine.session import Session
from engine.tooling.diagnose.gpu_variants import compare_variants

COPY_BYTES = 2 << 30  # far beyond every cache
VERIFY_ROWS = (1, 2, 3, 4, 8)
STEPS = 64  # decoded tokens whose median is taken
BANNED = np.empty(0, np.int64)


def copy_bandwidth(ops: Any, n_bytes: int = COPY_BYTES, repeats: int = 8) -> float:
    """Bytes per second of a device-to-device copy, bytes read plus bytes written; the best run."""
    n_bytes = min(n_bytes, ops.free_bytes() // 4)
    a, b = (ops.new_array((n_bytes,), np.uint8) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        ops.ctx.device.synchronize()
        start = perf_counter()
        ops.ctx.copy(a, b)
        ops.ctx.device.synchronize()
        best = min(best, perf_counter() - start)
    return 2 * n_bytes / best


class Speed:
    """Measures one session at growing contexts.

    Parameters
    ----------
    engine : Engine
        Of the cuda backend.
    contexts : sequence of int
        Ascending.
    """

    def __init__(self, engine: Engine, contexts: Sequence[int]) -> None:
        self.engine = engine
        self.contexts = tuple(contexts)
        self.session: Session = engine.session(max(contexts) + STEPS + 2 * max(VERIFY_ROWS) + 16)
        n_vocab = engine.shape.n_vocab
        self._text = np.random.default_rng(1).integers(0, n_vocab, self.session.ctx).tolist()

    def run(self, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
        """One record per context: raw seconds, launches, weight bytes, and kernel tables."""
        for n_ctx in self.contexts:
            record = {"n_ctx": n_ctx, **self._prefill(n_ctx), **self._decode()}
            record["verify_s"] = {n: self._verify(n) for n in VERIFY_ROWS}
            record["decode_bytes"] = self._bytes(n_ctx, 1)
            record["verify_bytes"] = {n: self._bytes(n_ctx, n) for n in VERIFY_ROWS}
            record["passes"] = self._passes()
            say(f"{n_ctx} tokens: decode {record['decode_s'] * 1e3:.3f} ms")
            yield record

    def _prefill(self, n_ctx: int) -> dict[str, Any]:
        """Prefill up to the context; seconds of the last whole chunk on its own."""
        session = self.session
        chunk = self.engine.options.prefill_chunk
        if session.n_past < n_ctx - chunk:
            session.sync(session.tokens + self._text[session.n_past : n_ctx - chunk])
        seconds, done = [], session.n_past
        # The first chunk of a length is recorded, which takes Python's time; the next is replayed.
        marks = [n_ctx] if n_ctx - done <= chunk else range(done + chunk, n_ctx + 1, chunk)
        for mark in marks:
            self._wait()
            start = perf_counter()
            session.sync(session.tokens + self._text[session.n_past : mark])
            self._wait()
            seconds.append(perf_counter() - start)
        return {"prefill_tokens": session.n_past - done, "prefill_s": seconds}

    def _decode(self) -> dict[str, Any]:
        session = self.session
        start_at, times = session.n_past, []
        logits = session.eval(self._text[start_at])
        for _ in range(STEPS):
            token = logits.choose(BANNED)
            start = perf_counter()
            logits = session.eval(token)
            logits.choose(BANNED)
            times.append(perf_counter() - start)
        return {
            "decode_s": statistics.median(times),
            "decode_all_s": times,
            "decoded_from": start_at,
        }

    def _verify(self, n: int) -> float:
        """Median seconds of one verification of n rows, choices read."""
        session, times = self.session, []
        for _ in range(12):
            b = session.n_past
            start = perf_counter()
            rows, _ = session.verify(self._text[b : b + n])
            rows[n - 1].choose(BANNED)
            times.append(perf_counter() - start)
            session.rewind(b)
        # The first two record the pass and capture its graph.
        return statistics.median(times[2:])

    def _passes(self) -> dict[str, dict[str, Any]]:
        """Every recorded pass of the trunk: where it ran last, and its launches in order."""
        found = self.engine.ops.time_passes(self.session.trunk)
        return {
            " ".join(map(str, key)): {
                "pos0": times.pos0,
                "launches": [launch._asdict() for launch in times.launches],
            }
            for key, times in found.items()
        }

    def _bytes(self, n_ctx: int, n_rows: int) -> float:
        from engine.weights.bind import bind_trunk
        from engine.weights.traffic import decode_traffic

        shape, trunk = bind_trunk(self.engine.file)
        official = self.engine.options.kv == "official"
        size = 2 if official else 4  # float16 rows; bfloat16 indexer rows
        return decode_traffic(shape, trunk, n_ctx, n_rows, kv_value_bytes=size).total

    def _wait(self) -> None:
        self.engine.ops.wait()


def measure(
    model: Path,
    contexts: Sequence[int],
    say: Callable[[str], None],
    keep: Callable[[dict[str, Any]], None],
    **options: Any,
) -> dict[str, Any]:
    """Facts, bandwidth, records and variants of one model file on the CUDA device.

    Parameters
    ----------
    model : Path
    contexts : sequence of int
    say : callable
        Gets a line of progress now and then.
    keep : callable
        Gets everything that is known so far after each measurement, so that nothing is lost when
        a machine is taken away in between.
    options
        Further fields of EngineOptions.
    """
    start = perf_counter()
    wanted = EngineOptions(model, backend="cuda", check_values="never", **options)
    with open_engine(wanted) as engine:
        load_s = perf_counter() - start
        bandwidth = copy_bandwidth(engine.ops)
        say(f"loaded in {load_s:.1f} s; copies at {bandwidth / 1e9:.0f} GB/s")
        result: dict[str, Any] = {
            "facts": engine.facts(),
            "load_s": load_s,
            "copy_bytes_per_s": bandwidth,
            "records": [],
            "variants": [],
        }
        keep(result)
        speed = Speed(engine, contexts)
        for record in speed.run(say):
            result["records"].append(record)
            result["facts"] = engine.facts()
            keep(result)
        result["variants"] = compare_variants(engine, min(contexts), say)
        keep(result)
        return result
