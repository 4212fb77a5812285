"""Which questions the list shows: by state, by source, by what differs between two runs, by words.

It knows no key and no terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ds4eval.plan import Job
from ds4eval.records.record import Sample


@dataclass(frozen=True, slots=True)
class Filter:
    """What a question must have to be listed; empty fields ask for nothing.

    Parameters
    ----------
    state : str
        A state as in `ds4eval.records.record.Sample`, or PENDING.
    source : str
    flips : bool
        Right in one of two runs and not in the other.
    words : str
        Stand somewhere in id, title, domain, question, choices or reply, in any case.
    """

    state: str = ""
    source: str = ""
    flips: bool = False
    words: str = ""

    def __bool__(self) -> bool:
        return bool(self.state or self.source or self.flips or self.words)

    def __str__(self) -> str:
        parts = [self.state.lower(), self.source, "flips" if self.flips else ""]
        parts.append(f'"{self.words}"' if self.words else "")
        return ", ".join(filter(None, parts))

    def admits(self, job: Job, state: str, sample: Sample | None, other: Sample | None) -> bool:
        if self.state and state != self.state:
            return False
        if self.source and job.question.source != self.source:
            return False
        if self.flips and not flipped(sample, other):
            return False
        return not self.words or self.words.casefold() in _text_of(job, sample)


def flipped(sample: Sample | None, other: Sample | None) -> bool:
    """Whether one of two runs got a question right and the other did not."""
    return sample is not None and other is not None and sample.passed != other.passed


def _text_of(job: Job, sample: Sample | None) -> str:
    q = job.question
    parts = [f"{q.source}/{q.id}", q.title, q.domain, q.text, *q.choices]
    if sample is not None:
        parts += [sample.given, sample.output, sample.error]
    return "\n".join(parts).casefold()


def admitted(
    wanted: Filter,
    jobs: Sequence[Job],
    states: Sequence[str],
    samples: Mapping[int, Sample],
    others: Mapping[int, Sample],
) -> list[int]:
    """Numbers of the jobs that a filter admits, in order."""
    if not wanted:
        return list(range(1, len(jobs) + 1))
    return [
        job.n
        for job, state in zip(jobs, states)
        if wanted.admits(job, state, samples.get(job.n), others.get(job.n))
    ]


def after(value: str, values: Sequence[str]) -> str:
    """The next of some values behind one; '' behind the last and for an unknown one."""
    cycle = ["", *values]
    place = cycle.index(value) if value in cycle else -1
    return cycle[(place + 1) % len(cycle)]
