"""Answers questions with our engine in this process.

It computes the common beginning of all prompts once, decodes, and closes thinking where the budget
demands it. It does not know which question is next, and it grades nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ds4eval.answering.context import Prompt, encode, ids_sha256
from ds4eval.answering.thinking import ThinkBudget, rank_in_top
from ds4eval.events import Event, Prefill, Text
from ds4eval.plan import MAX_CONTEXT, Budget, Job, ReplySettings
from ds4eval.questions.question import Question
from ds4eval.records.answer import Answer
from ds4eval.records.record import EOS, ERROR, LIMIT, SKIPPED, STOPPED
from engine.errors import EngineError

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.generation import Generation, Steer
    from engine.session import Session
    from engine.spec.protocol import Decoder

Clock = Callable[[], float]


class EngineBackend:
    """Answers jobs one after another on one session.

    Parameters
    ----------
    engine : Engine
    settings : ReplySettings
    ctx_max, ctx : int
        Most tokens of prompt and reply, and tokens to allocate.
    think : str
        Effective think mode.
    shared : sequence of Question
        Whose prompts' common beginning is computed once.
    clock : callable
        Seconds.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ReplySettings,
        ctx_max: int,
        ctx: int,
        think: str,
        shared: Sequence[Question] = (),
        clock: Clock = time.perf_counter,
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.ctx_max = ctx_max
        self.ctx = ctx
        self.think = think
        self._clock = clock
        self._session: Session | None = None
        self._prefix = _common_prefix([self.encode(q).ids for q in shared])
        self._saved: Any = None
        tokenizer = engine.tokenizer
        from engine.text import special

        tag = tokenizer.special_ids.get(special.THINK_CLOSE)
        self._open_id = tokenizer.special_ids.get(special.THINK_OPEN)
        self._close_id = tag
        self._close = [tag] if tag is not None else tokenizer.encode(special.THINK_CLOSE).ids
        self._cue = tokenizer.encode(settings.budget.cue).ids if settings.budget.cue else []

    def close(self) -> None:
        """Release the model."""
        self._session = self._saved = None
        self.engine.close()

    def encode(self, question: Question) -> Prompt:
        # The mode is already effective, so the context must not lower it again.
        encoding = self.settings.encoding or self.engine.release.encoding.name
        return encode(self.engine.tokenizer, question, self.think, MAX_CONTEXT, encoding)

    def answer(
        self, job: Job, stop: Callable[[], bool] = lambda: False
    ) -> Generator[Event, None, Answer]:
        """Answer one job, yielding what happens; a failure of this question is an answer too.

        Parameters
        ----------
        job : Job
        stop : callable
            Asked before each step; True ends the reply there.
        """
        prompt = self.encode(job.question)
        base = Answer(
            SKIPPED,
            prompt_sha256=prompt.sha256,
            prompt_tokens=len(prompt.ids),
            special_in_data=prompt.n_special,
            opened=prompt.opened,
        )
        limit = min(self.settings.budget.tokens, self.ctx_max - len(prompt.ids))
        if limit <= 0 or len(prompt.ids) + 1 > self.ctx:
            return replace(
                base, error=f"prompt: expected below {self.ctx_max} tokens, found {len(prompt.ids)}"
            )
        limit = min(limit, self.ctx - len(prompt.ids))
        reply = _Reply(self, job, base, limit)
        try:
            yield from reply.run(prompt, stop)
        except (EngineError, MemoryError) as error:
            # The timeline may be half-written.
            self._session = self._saved = None
            text = str(error) or "memory: expected enough for the question, found none left"
            return reply.answer(ERROR, text)
        return reply.answer(reply.stop)

    def begin(self) -> Session:
        """The session, holding the prompts' common beginning."""
        if self._session is None:
            self._session = self.engine.session(self.ctx)
            if self._prefix:
                self._session.sync(self._prefix)
                self._saved = self._session.save()
        elif self._saved is not None:
            self._session.restore(self._saved)
        else:
            self._session.rewind(0)
        return self._session

    def think_budget(self, limit: int) -> ThinkBudget:
        budget: Budget = self.settings.budget
        active = self.think != "none"
        return ThinkBudget(
            limit, budget.soft, budget.hard, budget.rank, self._close, self._cue, active
        )

    def generation(
        self, session: Session, job: Job, limit: int, steer: Steer
    ) -> Generation[Decoder]:
        """The reply to the prompt that the session holds, in the settings' decode mode."""
        from engine.generation import generate
        from engine.sample import Sampler
        from engine.spec.policy import Greedy, Sampled
        from engine.spec.protocol import Policy

        s = self.settings.sampling
        policy: Policy = Greedy()
        if s.temp > 0:
            policy = Sampled(Sampler(s.temp, s.top_k, s.top_p, s.min_p, s.seed, job.stream))
        return generate(
            session,
            policy=policy,
            limit=limit,
            mode=self.settings.mode,
            draft=self.settings.draft,
            adaptive=self.settings.adaptive,
            margin=self.settings.margin,
            confidence=self.settings.confidence,
            steer=steer,
        )

    def switches(self, token: int, tail: str, thinking: bool) -> bool:
        """Whether the text behind a token is inside a think block."""
        if token == self._open_id:
            return True
        if token == self._close_id:
            return False
        if self._close_id is None and thinking and tail.endswith("</think>"):
            return False
        return thinking


class _Reply:
    """One reply in the making."""

    def __init__(self, backend: EngineBackend, job: Job, base: Answer, limit: int) -> None:
        self.backend = backend
        self.job = job
        self.base = base
        self.limit = limit
        self.stop = LIMIT
        self.ids: list[int] = []
        self.parts: list[str] = []
        self.n_think = 0
        self.thinking = base.opened
        self.budget = backend.think_budget(limit)
        self.prefill_s = self.decode_s = 0.0
        self.prefill_tokens = 0
        self.stats: Any = None
        self._stream: Any = None

    def run(self, prompt: Prompt, stop: Callable[[], bool]) -> Generator[Event, None, None]:
        from engine.text.stream import TextStream

        clock = self.backend._clock
        yield Prefill(self.job.n, 0, len(prompt.ids), 0.0)
        start = clock()
        session = self.backend.begin()
        self.prefill_s = clock() - start
        chunk = self.backend.engine.options.prefill_chunk
        while session.n_past < len(prompt.ids):
            if stop():
                self.stop = STOPPED
                return
            done = min(session.n_past + chunk, len(prompt.ids))
            start = clock()
            self.prefill_tokens += session.sync(list(prompt.ids[:done]))
            self.prefill_s += clock() - start
            yield Prefill(self.job.n, done, len(prompt.ids), self.prefill_s)
        start = clock()
        generation = self.backend.generation(session, self.job, self.limit, self._steer(session))
        self.stats = generation.decoder.stats
        self._stream = TextStream(self.backend.engine.tokenizer)
        steps = iter(generation)
        self.decode_s = clock() - start
        while True:
            if len(self.ids) < self.limit and stop():
                self.stop = STOPPED
                return
            start = clock()
            made = len(self.ids)
            step = next(steps, None)
            if step is None:
                self.decode_s += clock() - start
                break
            segments: list[tuple[bool, str]] = []
            for emitted in step.tokens:
                was = self.thinking
                segments.append((was, self._take(emitted)))
            seconds = clock() - start
            self.decode_s += seconds
            yield from self._told(segments, made, seconds)
        if generation.ended_by_stop:
            self.stop = EOS

    def _steer(self, session: Session) -> Steer:
        """The thinking budget as the decode loop asks for it: a forced token, and tokens to go."""

        def steer(made: int) -> tuple[int | None, int]:
            forced = self.budget.force(
                made, self.thinking, lambda t, most: rank_in_top(session.logits, t, most)
            )
            return forced, self.budget.free(made, self.thinking)

        return steer

    def _told(
        self, segments: list[tuple[bool, str]], made: int, seconds: float
    ) -> Generator[Event, None, None]:
        """Text events of one step, one per token, its time shared out."""
        for thinking, text in segments:
            made += 1
            yield Text(
                self.job.n,
                text,
                thinking,
                1,
                made,
                self.limit,
                self.budget.answer_from,
                seconds / len(segments),
            )

    def _take(self, token: int) -> str:
        text: str = self._stream.push(token)
        self.ids.append(token)
        self.parts.append(text)
        was = self.thinking
        tail = "".join(self.parts[-9:])
        self.thinking = self.backend.switches(token, tail, was)
        self.n_think += was or self.thinking
        if was and not self.thinking:
            self.budget.closed_by_model(len(self.ids))
        return text

    def answer(self, stop: str, error: str = "") -> Answer:
        rest = self._stream.finish() if self._stream is not None else ""
        closed = self.budget.closed
        answer = replace(
            self.base,
            stop=stop,
            output="".join(self.parts) + rest,
            output_sha256=ids_sha256(self.ids),
            gen_tokens=len(self.ids),
            think_tokens=self.n_think,
            limit_tokens=self.limit,
            prefill_s=self.prefill_s,
            decode_s=self.decode_s,
            prefill_tokens=self.prefill_tokens,
            error=error,
        )
        if self.stats is not None:
            answer = replace(answer, drafted=self.stats.drafted, accepted=self.stats.accepted)
        if closed is None:
            return answer
        return replace(
            answer,
            close=closed.kind,
            close_index=closed.index,
            close_remaining=closed.remaining,
            close_rank=closed.rank,
        )


def _common_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Tokens that all prompts begin with; none for a single prompt, which gains nothing."""
    if len(prompts) < 2:
        return []
    low, high = min(map(tuple, prompts)), max(map(tuple, prompts))
    n = 0
    while n < len(low) and low[n] == high[n]:
        n += 1
    return list(low[: min(n, len(low) - 1)])
