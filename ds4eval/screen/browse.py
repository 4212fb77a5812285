"""Reads finished runs, or ones in progress, into what the screen shows.

A question that was never answered has no text in the journal: it is listed by its id alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ds4eval.compare.pairs import AnsweredRun
from ds4eval.plan import Job
from ds4eval.questions.question import Question, QuestionError
from ds4eval.records.record import Sample
from ds4eval.records.samples import question_of
from ds4eval.screen.state import View
from engine.errors import EngineError

Place = tuple[str, str, int]
UNASKED = "(The journal holds a question's text only once it was asked.)"


@dataclass(frozen=True, slots=True)
class Browsed:
    """One or two runs over one list of questions.

    Attributes
    ----------
    names : tuple of str
    jobs : list of Job
        The first run's order, then what only the second asked.
    samples : tuple of dict of int to Sample
        Of each run, by job number.
    """

    names: tuple[str, ...]
    jobs: list[Job]
    samples: tuple[dict[int, Sample], ...]


def browsed(arms: Sequence[AnsweredRun]) -> Browsed:
    """The answers of one run or of two.

    Raises
    ------
    EngineError
        If two runs have no question in common.
    """
    places: dict[Place, Job] = {}
    found: list[dict[Place, Sample]] = []
    for arm in arms:
        mine = {(s.source, s.id, s.repeat): s for s in arm.run.samples}
        found.append(mine)
        asked = [(row["source"], row["id"], row["repeat"]) for row in arm.run.selected]
        for place in dict.fromkeys([*asked, *mine]):
            if place not in places or (place in mine and places[place].question.text == UNASKED):
                n = places[place].n if place in places else len(places) + 1
                places[place] = _job(n, place, mine.get(place))
    if len(found) > 1 and not set(found[0]) & set(found[1]):
        raise EngineError(
            f"{arms[1].label}: expected questions answered by {arms[0].label} too, found none"
        )
    jobs = sorted(places.values(), key=lambda job: job.n)
    samples = tuple(
        {job.n: replace(mine[place], n=job.n) for place, job in places.items() if place in mine}
        for mine in found
    )
    return Browsed(tuple(arm.label for arm in arms), jobs, samples)


def _job(n: int, place: Place, sample: Sample | None) -> Job:
    source, name, repeat = place
    name = _word(name) or "unnamed"
    question = Question(id=name, source=source, text=UNASKED, answer="0", kind="integer")
    if sample is not None:
        try:
            question = question_of(sample)
        except QuestionError:
            # Graded once, and odd by today's rules: what was asked is shown as it stands.
            text = str(sample.question.get("text", ""))
            question = replace(question, text=text.strip() or UNASKED, domain=sample.domain)
    return Job(n, question, repeat, 0, sample.key if sample else "")


def _word(text: str) -> str:
    """An id as questions may have it, whatever a journal says."""
    return "".join(c if c.isprintable() and not c.isspace() else "_" for c in text)


def view_of(found: Browsed) -> View:
    """A screen over finished runs."""
    view = View(names=found.names, jobs=found.jobs, samples=found.samples[0], ended="done")
    view.states = ["PENDING"] * len(found.jobs)
    for n, sample in view.samples.items():
        view.states[n - 1] = sample.state
    if len(found.samples) > 1:
        view.others = found.samples[1]
    view.selected = 1
    return view
