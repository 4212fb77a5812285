"""Grades a back end's answer into a record, and rebuilds the question out of a record."""

from __future__ import annotations

import dataclasses

from ds4eval.grading.grade import GRADER_VERSION, Grades, grade
from ds4eval.plan import Job, Sampling
from ds4eval.questions.question import Question, fingerprint
from ds4eval.records.answer import Answer
from ds4eval.records.record import EOS, LIMIT, Sample, state_of

GRADED = (EOS, LIMIT)
# What an answer says to the run and not to its record.
NOT_COPIED = ("opened", "of_question")


def make_sample(
    job: Job,
    answer: Answer,
    sampling: Sampling,
    started: str,
    session: int = 0,
    worker: int = 0,
    headline: str = "strict",
) -> Sample:
    """The record of one answered job, graded by every rule where the reply came to an end."""
    question = job.question
    sampled = sampling.temp > 0
    copied = {
        f.name: getattr(answer, f.name)
        for f in dataclasses.fields(Answer)
        if f.name not in NOT_COPIED
    }
    sample = Sample(
        key=job.key,
        n=job.n,
        source=question.source,
        id=question.id,
        domain=question.domain,
        kind=question.kind,
        chance=question.chance,
        repeat=job.repeat,
        state=state_of(answer.stop, ""),
        expected=question.answer,
        question_sha256=fingerprint(question),
        strata=dict(question.strata),
        seed=sampling.seed if sampled else None,
        stream=job.stream if sampled else None,
        permutation=list(question.permutation),
        started=started,
        session=session,
        worker=worker,
        attempt=job.attempt,
        question={
            "title": question.title,
            "text": question.text,
            "choices": list(question.choices),
            "opened": answer.opened,
            **({} if question.form == "line" else {"form": question.form}),
        },
        **copied,
    )
    if answer.stop not in GRADED:
        return sample
    grades = grade(question, answer.output, answer.opened, answer.stop == EOS)
    return with_grades(sample, grades, headline)


def with_grades(sample: Sample, grades: Grades, headline: str = "") -> Sample:
    """The sample with new grades and the state that follows from them.

    The headline's verdict decides the state; '' keeps the grader that decided it before.
    """
    named = headline or sample.headline or "strict"
    decisive = grades.by_name({"classic": "ds4-classic"}.get(named, named))
    strict, lenient, classic = grades.strict, grades.lenient, grades.classic
    return dataclasses.replace(
        sample,
        state=state_of(sample.stop, decisive.verdict),
        headline="" if named == "strict" else named,
        given=strict.given,
        verdict=strict.verdict,
        rule=strict.rule,
        lenient_given=lenient.given,
        lenient_verdict=lenient.verdict,
        lenient_rule=lenient.rule,
        classic_given=classic.given,
        classic_verdict=classic.verdict,
        classic_rule=classic.rule,
        precision=strict.precision,
        recall=strict.recall,
        thinking=grades.thinking,
        grader_version=GRADER_VERSION,
    )


def question_of(sample: Sample, answer: str | None = None) -> Question:
    """The question as it was asked, out of a record.

    Parameters
    ----------
    answer : str, optional
        A corrected key.

    Raises
    ------
    QuestionError
        If the record's fields are no question.
    """
    text = sample.question
    return Question(
        id=sample.id,
        source=sample.source,
        text=text.get("text", ""),
        answer=sample.expected if answer is None else answer,
        kind=sample.kind,
        choices=tuple(text.get("choices", ())),
        domain=sample.domain,
        title=text.get("title", ""),
        strata=tuple(sample.strata.items()),
        permutation=tuple(sample.permutation),
        form=text.get("form", "line"),
    )


def regraded(sample: Sample, headline: str = "") -> Sample:
    """The sample graded again by the present rules; ungraded ones come back as they are.

    `headline` names the grader that decides the state; '' keeps the run's.
    """
    if sample.stop not in GRADED:
        return sample
    opened = bool(sample.question.get("opened"))
    return with_grades(
        sample, grade(question_of(sample), sample.output, opened, sample.stop == EOS), headline
    )
