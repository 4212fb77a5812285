"""What is inside the clock: a prefill of the new suffix, or a decode loop of exactly N tokens.

Snapshots, restores, garbage collection, files and screens are outside. The clock is an argument.
"""

from __future__ import annotations

import gc
import hashlib
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from engine.errors import EngineError
from engine.generation import Generation, Steps
from engine.spec.protocol import SpecStats, StepResult

Clock = Callable[[], int]  # nanoseconds, monotonic


class SavedTimeline(Protocol):
    """The part of `engine.cache.snapshot.Snapshot` that a measurement uses."""

    @property
    def n_bytes(self) -> int: ...


S = TypeVar("S", bound=SavedTimeline)


class Timeline(Protocol[S]):
    """The part of `engine.session.Session` that a measurement uses."""

    @property
    def n_past(self) -> int: ...

    def sync(self, tokens: Sequence[int]) -> int: ...

    def save(self) -> S: ...

    def restore(self, saved: S) -> None: ...


T = TypeVar("T", bound="Timeline[SavedTimeline]")


@dataclass(frozen=True, slots=True)
class Decode:
    """Raw results of one decode window."""

    gen_s: float
    step_s: tuple[float, ...]
    step_tokens: tuple[int, ...]
    step_drafted: tuple[int, ...]
    drafted: int
    accepted: int
    drafted_by_depth: tuple[int, ...]
    accepted_by_depth: tuple[int, ...]
    draft_s: float
    verify_s: float
    rollback_s: float
    token_hash: str
    draft_context_s: float | None
    draft_block_s: float | None
    draft_head_s: float | None
    reliability: tuple[float, ...]

    @property
    def gen_tokens(self) -> int:
        return sum(self.step_tokens)


@contextmanager
def quiet() -> Iterator[None]:
    """Collect garbage now, and none inside the block."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def timed_prefill(timeline: Timeline[S], tokens: Sequence[int], clock: Clock) -> float:
    """Seconds to extend the timeline to `tokens`.

    The CPU engine returns when its work is done, so both clock reads see an idle device.
    """
    with quiet():
        start = clock()
        timeline.sync(tokens)
        stop = clock()
    return (stop - start) * 1e-9


def timed_decode(
    decoder: Steps, n_tokens: int, clock: Clock, forbidden: Collection[int] = ()
) -> Decode:
    """Exactly `n_tokens` tokens from the timeline's end; choosing tokens is inside the clock.

    Parameters
    ----------
    forbidden : collection of int
        Ids that no mode may emit (EOS), so that all modes do the same work.

    Raises
    ------
    EngineError
        If a step emits nothing, too much, or a forbidden token.
    """
    stamps = [0] * (n_tokens + 1)
    results: list[StepResult] = []
    steps = iter(Generation(decoder, n_tokens))
    with quiet():
        stamps[0] = clock()
        for result in steps:
            results.append(result)
            # One clock read per step keeps latencies; it costs tens of nanoseconds.
            stamps[len(results)] = clock()
    emitted = [token for result in results for token in result.tokens]
    bad = next((token for token in emitted if token in forbidden), None)
    if bad is not None:
        raise EngineError(f"decode: expected no end-of-text token, found {bad} among the tokens")
    n = len(results)
    return Decode(
        gen_s=(stamps[n] - stamps[0]) * 1e-9,
        step_s=tuple((stamps[i + 1] - stamps[i]) * 1e-9 for i in range(n)),
        step_tokens=tuple(len(result.tokens) for result in results),
        step_drafted=tuple(result.drafted for result in results),
        drafted=sum(result.drafted for result in results),
        accepted=sum(result.accepted for result in results),
        drafted_by_depth=_by_depth([result.drafted for result in results]),
        accepted_by_depth=_by_depth([result.accepted for result in results]),
        draft_s=sum(result.draft_s for result in results),
        verify_s=sum(result.verify_s for result in results),
        rollback_s=sum(result.rollback_s for result in results),
        token_hash=hash_tokens(emitted),
        **_parts(results),
    )


def _parts(results: Sequence[StepResult]) -> dict[str, Any]:
    """What drafting cost by part, and how its confidences did; nothing where none were told."""
    stats = SpecStats()
    for result in results:
        stats.add(result)
    told = any(result.drafts is not None for result in results)
    return {
        "draft_context_s": stats.context_s if told else None,
        "draft_block_s": stats.block_s if told else None,
        "draft_head_s": stats.head_s if told else None,
        "reliability": tuple(
            float(value) for depth in stats.reliability for row in depth for value in row
        ),
    }


def _by_depth(counts: Sequence[int]) -> tuple[int, ...]:
    """How many steps reached depth 1, 2, ...: of drafting, or of acceptance."""
    return tuple(sum(n > depth for n in counts) for depth in range(max(counts, default=0)))


def hash_tokens(tokens: Sequence[int]) -> str:
    """SHA-256 over ids of four bytes, little endian."""
    return hashlib.sha256(struct.pack(f"<{len(tokens)}I", *tokens)).hexdigest()


@dataclass(frozen=True, slots=True)
class Warmup:
    """One discarded round: a prefill chunk and a short decode in each mode."""

    prefill_tokens: int
    prefill_s: float
    gen_s: dict[str, float]
    errors: dict[str, str] = field(default_factory=dict)


def settled(rounds: Sequence[Warmup], tolerance: float = 0.05) -> bool:
    """Whether the last two rounds' prefill times agree, so that compilation is behind us."""
    if len(rounds) < 2 or rounds[-2].prefill_tokens != rounds[-1].prefill_tokens:
        return False
    a, b = rounds[-2].prefill_s, rounds[-1].prefill_s
    return abs(a - b) <= tolerance * max(a, b)


def warm_up(
    make_timeline: Callable[[], T],
    make_decoder: Callable[[T, str], Steps],
    tokens: Sequence[int],
    modes: Sequence[str],
    clock: Clock,
    *,
    reach: Sequence[int] = (),
    n_decode: int = 16,
    most_rounds: int = 5,
    most_s: float = 60.0,
) -> list[Warmup]:
    """Run every kernel shape and page weights in, until the rate stops changing.

    Where `reach` holds tokens, one round over these comes first: they are more than the others, so
    that kernels which only a longer context needs are not compiled inside the clock later.

    Rounds end when two in a row agree within 5 %, after five, or when another one would take those
    after the first, which may have compiled for minutes, beyond `most_s` seconds. A mode
    that fails is noted and left out of later rounds: it will fail in its own rows, and must not
    take the other modes' with it.
    """
    rounds: list[Warmup] = []
    left = list(modes)
    warm = None  # time at which the first round had ended
    most_rounds += bool(reach)
    while True:
        timeline = make_timeline()
        prompt = reach if reach and not rounds else tokens
        prefill_s = timed_prefill(timeline, prompt, clock)
        saved = timeline.save()
        gen_s: dict[str, float] = {}
        errors: dict[str, str] = {}
        for mode in left:
            try:
                gen_s[mode] = timed_decode(make_decoder(timeline, mode), n_decode, clock).gen_s
            except EngineError as error:
                errors[mode] = str(error)
            timeline.restore(saved)
        left = [mode for mode in left if mode not in errors]
        rounds.append(Warmup(len(prompt), prefill_s, gen_s, errors))
        if warm is None:
            warm = clock()
            continue
        spent = (clock() - warm) * 1e-9
        last = prefill_s + sum(gen_s.values())
        if len(rounds) >= most_rounds or settled(rounds) or spent + last > most_s:
            return rounds
