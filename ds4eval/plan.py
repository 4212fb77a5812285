"""Defines what decides a reply: sampling, budget, the jobs of a run, and its configuration.

Nothing here knows a model, a file or a screen. Jobs get their random streams and resume keys here,
so that neither order nor place changes a reply.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TypedDict

from ds4eval.documents import Document, section
from ds4eval.questions.prompts import VERSIONS
from ds4eval.questions.question import Question, fingerprint, stable_hash
from ds4eval.request import ReplyOptions
from engine.errors import OptionError

# The bounds and defaults of the C program ds4-eval.
MAX_CONTEXT = 1_000_000
DEFAULT_TOKENS = 16_000
DEFAULT_SOFT, DEFAULT_HARD, DEFAULT_RANK = 1024, 512, 3


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; temperature 0 takes the likeliest and uses no random numbers."""

    temp: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.05
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Budget:
    """Tokens of one reply and what closes thinking.

    Parameters
    ----------
    tokens : int
        Most tokens of a reply.
    hard, soft : int
        With at most this many left, thinking is closed: at once, or as soon as the close tag is
        among the `rank` likeliest tokens.
    rank : int
    cue : str
        Text that is put behind a forced close tag; '' for none.

    Raises
    ------
    OptionError
        Naming the option.
    """

    tokens: int = DEFAULT_TOKENS
    soft: int = DEFAULT_SOFT
    hard: int = DEFAULT_HARD
    rank: int = DEFAULT_RANK
    cue: str = ""

    def check(self, think: str) -> None:
        """Refuse limits that contradict each other; without thinking they mean nothing."""
        if self.tokens > MAX_CONTEXT:
            raise OptionError(f"--tokens: expected at most {MAX_CONTEXT}, found {self.tokens}")
        if think == "none":
            return
        if self.hard >= self.tokens:
            raise OptionError(
                f"--hard-limit-reply-budget: expected less than --tokens {self.tokens}, "
                f"found {self.hard}"
            )
        if self.soft < self.hard:
            raise OptionError(
                "--soft-limit-reply-budget: expected at least --hard-limit-reply-budget "
                f"{self.hard}, found {self.soft}"
            )


# AIME's mean reply is about 20,000 tokens (V4 Flash thinking, avg@16 of SGLang's measurement), so
# that upstream's 16,000 would cut the larger half; a budget three times the mean cuts few.
AIME_TOKENS = 64_000

# The nano suite's replies are short, and so is their budget.
NANO_BUDGET = Budget(tokens=256, soft=96, hard=64)
# So are those about long texts, which are looked up and not worked out.
LONG_BUDGET = Budget(tokens=4096)


def default_tokens(suite: str) -> int:
    """Most tokens of a reply where nobody says."""
    return AIME_TOKENS if suite.startswith("aime") else DEFAULT_TOKENS


def budget_of(reply: ReplyOptions, suite: str, closes: bool = True) -> Budget:
    """What the user named, completed by the defaults of the suite.

    A nano reply that is given more than the nano suite's tokens gets the usual limits of thinking.

    Parameters
    ----------
    closes : bool
        Limits of thinking act; a server obeys none, so that they contradict no budget there.

    Raises
    ------
    OptionError
        If limits contradict each other.
    """
    small = suite == "nano" and (reply.tokens is None or reply.tokens <= NANO_BUDGET.tokens)
    base = (
        NANO_BUDGET if small else LONG_BUDGET if suite == "long" else Budget(default_tokens(suite))
    )
    budget = Budget(
        tokens=base.tokens if reply.tokens is None else reply.tokens,
        soft=base.soft if reply.soft is None else reply.soft,
        hard=base.hard if reply.hard is None else reply.hard,
        rank=reply.rank,
        cue=reply.cue,
    )
    budget.check(reply.think if closes else "none")
    return budget


@dataclass(frozen=True, slots=True)
class ReplySettings:
    """Everything that a back end needs to answer a question, apart from the model.

    Parameters
    ----------
    sampling, budget
    think : str
        As asked for: 'none', an effort of the model's release, or 'on' for its least one. The
        first release's 'max' needs more context than most runs have.
    encoding : str or None
        Release of the chat format; None takes what the model says of itself.
    mode : str
        Decode mode of `engine.spec`.
    draft, adaptive, margin, confidence
        See `engine.spec.modes.open_decoder`; of the mode's kind of drafter.
    explicit_tokens : bool
        Whether the user named the budget: then a prompt that leaves less is refused.
    """

    sampling: Sampling = field(default_factory=Sampling)
    budget: Budget = field(default_factory=Budget)
    think: str = "high"
    mode: str = "plain"
    draft: int | None = 1
    adaptive: bool = False
    margin: float = 0.0
    confidence: float = 0.0
    explicit_tokens: bool = False
    encoding: str | None = None
    form: str = "line"

    def seeded(self, seed: int) -> ReplySettings:
        """The same with another seed."""
        return replace(self, sampling=replace(self.sampling, seed=seed))


@dataclass(frozen=True, slots=True)
class Job:
    """One question in one repeat, with random numbers of its own.

    Parameters
    ----------
    n : int
        1-based place in the list.
    question : Question
    repeat : int
    stream : int
        Keyed by question and repeat only, so that no order and no selection changes a reply.
    key : str
        Resume key.
    attempt : int
    """

    n: int
    question: Question
    repeat: int
    stream: int
    key: str
    attempt: int = 1


def sample_key(config: Document, question_sha256: str, source: str, id: str, r: int) -> str:
    """Resume key: SHA-256, 32 hex digits, over configuration, question and repeat."""
    parts = json.dumps([config, question_sha256, source, id, r], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def make_jobs(config: Document, questions: Sequence[Question], repeats: int) -> list[Job]:
    """Jobs of a selection: every question once, then every question again, ...

    Raises
    ------
    OptionError
        If two questions have the same source and id.
    """
    seen: set[str] = set()
    for question in questions:
        if question.key in seen:
            raise OptionError(f"questions: expected each once, found {question.key} twice")
        seen.add(question.key)
    jobs: list[Job] = []
    for repeat in range(repeats):
        for question in questions:
            key = sample_key(config, fingerprint(question), question.source, question.id, repeat)
            stream = stable_hash("ds4-eval", question.source, question.id, repeat)
            jobs.append(Job(len(jobs) + 1, question, repeat, stream, key))
    return jobs


class Selected(TypedDict):
    """What the journal keeps of a job: no question text."""

    key: str
    source: str
    id: str
    repeat: int
    kind: str
    expected: str
    chance: float


def selection(jobs: Iterable[Job]) -> list[Selected]:
    """A run's jobs as the journal keeps them."""
    return [
        {
            "key": job.key,
            "source": job.question.source,
            "id": job.question.id,
            "repeat": job.repeat,
            "kind": job.question.kind,
            "expected": job.question.answer,
            "chance": job.question.chance,
        }
        for job in jobs
    ]


def config_of(settings: ReplySettings, think: str, model: Document, data: Document) -> Document:
    """Everything that decides a reply; a run folder holds one of these.

    Parameters
    ----------
    settings : ReplySettings
    think : str
        Effective mode.
    model : dict
        Identity and numerics of what answers.
    data : dict
        Suite and data sets with their hashes.
    """
    budget = settings.budget
    sampling = asdict(settings.sampling)
    if settings.sampling.temp == 0:
        # Greedy replies depend on none of these.
        sampling = {"temp": 0.0}
    # No server closes a think block when we ask it to: there, tokens are the only limit.
    closes = think != "none" and model.get("backend") != "remote"
    drafts = settings.sampling.temp > 0 and settings.mode != "plain"
    config: Document = {
        "data": data,
        "prompt_version": VERSIONS[settings.form],
        "model": model,
        "sampling": sampling,
        "think": think,
        "budget": asdict(budget) if closes else {"tokens": budget.tokens},
        # Without drafting every mode emits the same tokens; with sampling they differ.
        "mode": settings.mode if settings.sampling.temp else "any",
        "draft": settings.draft if drafts else 0,
    }
    if drafts and settings.adaptive:
        config["adaptive"] = True
    if drafts and settings.margin:
        config["margin"] = settings.margin
    if drafts and settings.confidence:
        config["confidence"] = settings.confidence
    plain: Document = json.loads(json.dumps(config, allow_nan=False))
    return plain


# What tells model files with equal headers apart; runs of earlier releases do not have it.
IDENTITY = ("sampled_sha256", "mtp_sampled_sha256", "dspark_sampled_sha256")


def is_header_only(config: Document) -> bool:
    """Whether a configuration knows its model file by the header alone."""
    model = section(config, "model")
    return "header_sha256" in model and "sampled_sha256" not in model


def header_only(config: Document) -> Document:
    """A configuration as an earlier release wrote it down."""
    model = {k: v for k, v in section(config, "model").items() if k not in IDENTITY}
    return {**config, "model": model}


def with_seed(config: Document, seed: int) -> Document:
    """The configuration of a sampled run with another seed."""
    return {**config, "sampling": {**section(config, "sampling"), "seed": seed}}


def config_digest(config: Document, without_seed: bool = False) -> str:
    """Short name of a configuration."""
    if without_seed:
        sampling = {k: v for k, v in section(config, "sampling").items() if k != "seed"}
        config = {**config, "sampling": sampling}
    text = json.dumps(config, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
