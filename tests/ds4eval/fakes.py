"""A back end without a model: replies follow from the job's random stream, time is charged."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from dataclasses import dataclass, field

from ds4eval.events import Prefill, Text
from ds4eval.plan import Job, ReplySettings, Sampling, make_jobs
from ds4eval.questions.question import Question, stable_hash
from ds4eval.records.answer import Answer
from ds4eval.records.record import EOS, ERROR, LIMIT, STOPPED

CONFIG = {"model": {"name": "fake"}, "sampling": {"temp": 1.0, "seed": 7}, "budget": {"tokens": 9}}
SETTINGS = ReplySettings(sampling=Sampling(temp=1.0, seed=7))


def question(i: int, kind: str = "integer", **fields: object) -> Question:
    choices = ("one", "two", "three") if kind == "letter" else ()
    answer = "ABC"[i % 3] if kind == "letter" else str(i)
    defaults: dict = dict(id=f"q{i:03d}", source=f"fake/{kind}", text=f"What is {i}?",
                          answer=answer, kind=kind, choices=choices, domain="counting",
                          title=f"number {i}", strata=(("difficulty", "easy"),))  # fmt: skip
    return Question(**(defaults | fields))


def questions(n: int) -> list[Question]:
    return [question(i, "letter" if i % 3 == 0 else "integer") for i in range(1, n + 1)]


def jobs(n: int, repeats: int = 1, config: dict = CONFIG) -> list[Job]:
    return make_jobs(config, questions(n), repeats)


def reply_of(job: Job) -> str:
    """Right for two questions in three, and never the same for two streams."""
    right = stable_hash(job.stream) % 3 > 0
    answer = job.question.answer if right else "999" if job.question.kind == "integer" else "C"
    return f"thinking {job.stream}</think>\nIt is so.\nAnswer: {answer}\n"


@dataclass
class FakeBackend:
    """Answers jobs word by word.

    `script` maps question ids to 'error', 'limit' or a reply; `hook` is called before each word.
    """

    script: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.5
    asked: list[str] = field(default_factory=list)
    hook: object = None

    def answer(self, job: Job, stop=lambda: False):
        self.asked.append(job.question.id)
        wish = self.script.get(job.question.id, "")
        yield Prefill(job.n, 3, 3, 0.1)
        if wish == "error":
            return Answer(ERROR, error="logits: expected finite values, found 3 that are not")
        reply = wish if wish not in ("", "limit") else reply_of(job)
        words = reply.split(" ")
        made, thinking = [], True
        for i, word in enumerate(words, 1):
            if self.hook is not None:
                self.hook(job, i)
            if stop():
                return self._answer(job, " ".join(made), STOPPED, i - 1)
            made.append(word)
            yield Text(job.n, word + " ", thinking, 1, i, 99, 90, self.seconds)
            thinking = thinking and "</think>" not in word
        if wish == "limit":
            return self._answer(job, "thinking without an end", LIMIT, 99)
        return self._answer(job, reply, EOS, len(words))

    def _answer(self, job: Job, output: str, stop: str, n: int) -> Answer:
        digest = hashlib.sha256(output.encode()).hexdigest()
        return Answer(stop, output=output, prompt_sha256="0a", output_sha256=digest,
                      prompt_tokens=3, gen_tokens=n, think_tokens=2, limit_tokens=99, opened=True,
                      prefill_s=0.1, decode_s=self.seconds * n, prefill_tokens=3)  # fmt: skip


class FatalBackend(FakeBackend):
    """A back end in a worker that dies on certain questions, once per marker file."""

    def __init__(self, marker: str = "", deadly: str = "", slow: float = 0.0) -> None:
        super().__init__()
        self.marker, self.deadly, self.slow = marker, deadly, slow

    def answer(self, job: Job, stop=lambda: False):
        time.sleep(self.slow)
        if job.question.id == self.deadly and (not self.marker or not os.path.exists(self.marker)):
            if self.marker:
                with open(self.marker, "w"):
                    pass
            os.kill(os.getpid(), signal.SIGKILL)
        return (yield from super().answer(job, stop))


def make_fatal(spec: tuple[str, str, float]) -> FatalBackend:
    """Factory that workers import by name."""
    return FatalBackend(*spec)


def refuse(spec: object) -> FakeBackend:
    from engine.errors import LayoutError

    raise LayoutError("fake.gguf: expected a model, found none")


def collapse(spec: object) -> FakeBackend:
    os._exit(3)
