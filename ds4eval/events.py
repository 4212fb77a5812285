"""What a run tells its screen, in order; plain values, safe to send between processes."""

from __future__ import annotations

from dataclasses import dataclass

from ds4eval.plan import Job
from ds4eval.records.record import Sample


@dataclass(frozen=True, slots=True)
class Opened:
    """The run begins (or goes on): its list, and samples that are already there by job place."""

    jobs: list[Job]
    done: dict[int, Sample]
    ctx: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Started:
    """A question is being worked on; its prompt comes first."""

    n: int
    worker: int = 0


@dataclass(frozen=True, slots=True)
class Prefill:
    """Prompt tokens computed so far."""

    n: int
    done: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Text:
    """Part of a reply. `seconds` is the time spent on it; `answer_from` see ThinkBudget."""

    n: int
    text: str
    thinking: bool
    tokens: int
    generated: int
    limit: int
    answer_from: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Finished:
    """A question's record, already durable."""

    n: int
    sample: Sample


@dataclass(frozen=True, slots=True)
class Dropped:
    """A question was left without a record (switched away, or its worker was lost)."""

    n: int
    why: str


@dataclass(frozen=True, slots=True)
class Notice:
    """A line for the user."""

    line: str


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing more comes; why: 'done', 'quit' or 'failed'."""

    why: str
    message: str = ""


Event = Opened | Started | Prefill | Text | Finished | Dropped | Notice | Ended
