"""What the timed process does for each command: one model, one prompt, one timeline, one snapshot.

The worker knows the protocol of a measurement (`ds4bench.worker.protocol`) and a model behind a
narrow interface; it knows neither pipes nor GGUF files.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from ds4bench.plan import Prompt, SweepPlan
from ds4bench.worker.facts import Bandwidth, ModelFacts, PromptFacts
from ds4bench.worker.messages import (
    COMMANDS,
    Answering,
    Begun,
    Command,
    Copies,
    Decoded,
    DeviceCounters,
    EngineFacts,
    Failure,
    Loaded,
    Prefilled,
    WarmedUp,
)
from ds4bench.worker.protocol import (
    Timeline,
    hash_tokens,
    timed_decode,
    timed_prefill,
    warm_up,
)
from engine.errors import EngineError
from engine.generation import Steps

WARM_DECODE = 16
WARM_CHUNK = 512

W = TypeVar("W")
T = TypeVar("T", bound="Timeline[Any]")


class BenchModel(Protocol[T]):
    """A model as the worker needs it: `FileModel`, or the tests' model without weights."""

    @property
    def forbidden(self) -> frozenset[int]:
        """Ids that no mode may emit (end of text); known after `inspect`."""
        ...

    def inspect(self, plan: SweepPlan) -> ModelFacts: ...

    def encode_prompt(self, prompt: Prompt, n_tokens: int, text_class: str = "") -> list[int]: ...

    def load(self, plan: SweepPlan) -> EngineFacts: ...

    def bandwidth(self, plan: SweepPlan) -> Bandwidth: ...

    def counters(self) -> DeviceCounters | None:
        """Of the device so far; None where there is none."""
        ...

    def compiled(self) -> int:
        """How often this process has compiled or loaded kernels so far."""
        ...

    def reach(self, plan: SweepPlan) -> int:
        """Tokens of a context for which every kernel of a sweep has been needed."""
        ...

    def session(self, ctx: int) -> T: ...

    def decoder(self, session: T, mode: str, plan: SweepPlan) -> Steps: ...

    def step_bytes(
        self, mode: str, n_ctx: int, tokens: Sequence[int], drafted: Sequence[int]
    ) -> float: ...


class Worker(Generic[T]):
    """State of the timed process.

    Parameters
    ----------
    model : BenchModel
    clock : callable
        Nanoseconds, monotonic.
    """

    commands: ClassVar[tuple[type[Command[Answering, object]], ...]] = COMMANDS

    def __init__(
        self, model: BenchModel[T], clock: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self.model = model
        self.clock = clock
        self.tokens: list[int] = []
        self.texts: dict[str, list[int]] = {}  # tokens by kind of text
        self.plan: SweepPlan | None = None
        self.session: T | None = None
        self._snapshot: object = None

    def inspect(self, plan: SweepPlan) -> ModelFacts:
        """Facts about the model files, without reading weights.

        Raises
        ------
        EngineError
            If a file is not a model.
        """
        self.plan = plan
        return self.model.inspect(plan)

    def encode(self) -> PromptFacts:
        """Tokenise the prompt; its cost grows with the context, so `inspect` comes first.

        Raises
        ------
        EngineError
            If the prompt cannot be encoded.
        """
        plan = self._planned()
        most = shortest = None
        for text_class in plan.classes:
            tokens = self.model.encode_prompt(plan.prompt, plan.ctx_max, text_class)
            once = len(tokens)
            if plan.prompt.repeat and once:
                tokens = tokens * -(-plan.ctx_max // once)
            self.texts[text_class] = tokens[: plan.ctx_max]
            most = len(tokens) if most is None else min(most, len(tokens))
            shortest = once if shortest is None else min(shortest, once)
        self.tokens = self.texts[plan.classes[0]]
        used = [token for tokens in self.texts.values() for token in tokens]
        return PromptFacts(most or 0, shortest or 0, hash_tokens(used))

    def load(self) -> Loaded:
        """Open the weights."""
        start = self.clock()
        engine = self.model.load(self._planned())
        return Loaded((self.clock() - start) * 1e-9, engine)

    def bandwidth(self) -> Bandwidth:
        """Read rate of this machine on the threads that the model will use."""
        return self.model.bandwidth(self._planned())

    def warm_up(self, modes: Sequence[str]) -> WarmedUp:
        """Discarded rounds in some modes until the rate is steady."""
        plan = self._planned()
        before = self._copied()
        n = min(WARM_CHUNK, plan.ctx_start)
        reach = min(max(WARM_CHUNK, self.model.reach(plan)), plan.ctx_max)
        n_decode = min(WARM_DECODE, plan.gen_tokens)
        rounds = warm_up(
            lambda: self.model.session(max(n, reach) + n_decode + 1),
            lambda session, mode: self.model.decoder(session, mode, plan),
            self.tokens[:n],
            modes,
            self.clock,
            reach=self.tokens[:reach] if reach > n else (),
            n_decode=n_decode,
        )
        # What is there now stays; collections between windows need not walk it again.
        gc.collect()
        gc.freeze()
        copies, counters = self._copies_since(before), self.model.counters()
        launches = None if counters is None else counters.launches
        return WarmedUp(tuple(rounds), copies, launches)

    def begin(self, text_class: str = "") -> Begun:
        """A fresh timeline, for one kind of text."""
        self.tokens = self.texts.get(text_class, self.tokens)
        # The old one is dropped first: memory may not hold two contexts.
        self.session = self._snapshot = None
        self.session = self.model.session(self._planned().context)
        return Begun()

    def prefill(self, frontier: int) -> Prefilled:
        """Extend the timeline to a frontier and take the snapshot that decode starts from."""
        session = self._begun()
        before = session.n_past
        self._snapshot = None
        copied, compiled = self._copied(), self.model.compiled()
        prefill_s = timed_prefill(session, self.tokens[:frontier], self.clock)
        compiled = self.model.compiled() - compiled
        copies = self._copies_since(copied)
        if session.n_past != frontier:
            raise EngineError(
                f"prefill: expected {frontier} tokens in the timeline, found {session.n_past}"
            )
        saved = self._snapshot = session.save()
        return Prefilled(prefill_s, frontier - before, saved.n_bytes, copies, compiled)

    def decode(self, mode: str) -> Decoded:
        """One decode window from the snapshot, and back to it."""
        plan, session = self._planned(), self._begun()
        frontier = session.n_past
        decoder = self.model.decoder(session, mode, plan)
        copied, compiled = self._copied(), self.model.compiled()
        try:
            window = timed_decode(decoder, plan.gen_tokens, self.clock, self.model.forbidden)
            compiled = self.model.compiled() - compiled
            copies = self._copies_since(copied)
        finally:
            session.restore(self._snapshot)
        middle = frontier + window.gen_tokens // 2
        shared = {f.name for f in fields(Decoded)} & {f.name for f in fields(window)}
        return Decoded(
            gen_tokens=window.gen_tokens,
            bytes_per_step=self.model.step_bytes(
                mode, middle, window.step_tokens, window.step_drafted
            ),
            copies=copies,
            compiled=compiled,
            **{name: getattr(window, name) for name in shared},
        )

    def _planned(self) -> SweepPlan:
        if self.plan is None:
            raise EngineError("worker: expected the command 'inspect' first, found another")
        return self.plan

    def _begun(self) -> T:
        if self.session is None:
            raise EngineError("worker: expected a timeline ('begin'), found none")
        return self.session

    def _copied(self) -> Copies | None:
        """Copies between host and device so far; None without a device."""
        counters = self.model.counters()
        return None if counters is None else counters.copies

    def _copies_since(self, before: Copies | None) -> Copies | None:
        now = self._copied()
        if now is None:
            return None
        if before is None:
            return now
        return Copies(now.h2d_bytes - before.h2d_bytes, now.h2d_copies - before.h2d_copies)


def answer(worker: W, command: Command[W, object]) -> object:
    """The reply to one command; an exception becomes a `Failure`."""
    try:
        return command.run(worker)
    except EngineError as error:
        return Failure(type(error).__name__, str(error), error.exit_code)
    except MemoryError:
        return Failure("MemoryBudgetError", "memory: expected enough, found none left", 1)
    except Exception as error:
        # A bug, ours or a library's: the parent shows where.
        return Failure("", f"{type(error).__name__}: {error}", 1, traceback.format_exc())
