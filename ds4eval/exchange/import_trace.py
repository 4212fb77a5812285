"""Turns a trace of ds4-eval into records: rebuilds its questions and grades its replies anew."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ds4eval.documents import Document
from ds4eval.exchange.trace import OTHER_KINDS, Case, Trace, latest_cases, number, real
from ds4eval.plan import Job, Sampling, make_jobs
from ds4eval.questions.prompts import PROMPT_VERSION, messages
from ds4eval.questions.question import Question, QuestionError, canonical_answer
from ds4eval.records.answer import Answer
from ds4eval.records.record import EOS, ERROR, LIMIT, SKIPPED, STOPPED, Sample
from ds4eval.records.samples import make_sample
from engine.errors import OptionError

_CLOSES = ("natural", "soft_forced", "hard_forced")


def config_from(trace: Trace) -> Document:
    """Configuration of a run that another program made, in our own words where they fit."""
    h = trace.header
    temp = real(h, "temperature")
    sampling: Document = {"temp": temp}
    if temp:
        sampling |= {
            "top_k": 0,
            "top_p": real(h, "top_p"),
            "min_p": real(h, "min_p"),
            "seed": number(h, "seed"),
        }
    think = h.get("think_mode_requested", "")
    budget: Document = {"tokens": number(h, "max_tokens")}
    if think != "none":
        budget |= {
            "soft": number(h, "soft_limit_reply_budget"),
            "hard": number(h, "hard_limit_reply_budget"),
            "rank": number(h, "soft_limit_think_close_rank"),
            "cue": "",
        }
    return {
        "data": {"suite": "imported trace"},
        "prompt_version": "imported",
        "model": {"name": h.get("model_shape") or h.get("model", ""), "backend": h.get("backend")},
        "sampling": sampling,
        "think": think,
        "budget": budget,
        # Greedy replies are those of every mode.
        "mode": "imported" if temp else "any",
    }


def prompt_version(questions: Sequence[Question], cases: Sequence[Case]) -> str:
    """Our own version where every prompt of the trace is, byte for byte, what we would send."""
    for question, case in zip(questions, cases):
        ours = [content.encode("utf-8", "surrogatepass") for _, content in messages(question)]
        if [case.blocks.get(name) for name in ("SYSTEM_PROMPT", "QUESTION_PROMPT")] != ours:
            return "imported"
    return PROMPT_VERSION


def question_from(case: Case) -> Question:
    """The question of a case; the kind is told as the C program tells it.

    Raises
    ------
    QuestionError
        If the case holds no question.
    """
    kind = "letter" if case.choices else "integer"
    if not case.choices and case.fields.get("source") == "COMPSEC":
        kind = "lines"
    if case.fields.get("answer_kind") in OTHER_KINDS:
        kind = case.fields["answer_kind"]
    prompt = case.blocks.get("QUESTION_PROMPT", b"").decode("utf-8", "replace")
    return Question(
        id=case.fields["id"].strip(),
        source=case.fields["source"].strip(),
        text=_question_text(prompt, case.choices) or case.fields.get("title", ""),
        answer=canonical_answer(case.fields.get("expected", ""), kind, len(case.choices)),
        kind=kind,
        choices=case.choices,
        domain=case.fields.get("domain", ""),
        title=case.fields.get("title", ""),
    )


def _question_text(prompt: str, choices: tuple[str, ...]) -> str:
    """The prompt without the choices, their heading and the instruction about the answer."""
    if choices:
        first = re.search(r"(?m)^A\. ", prompt)
        if first:
            above = prompt[: first.start()].rstrip("\n")
            return above[: above.rfind("\n")].strip() if "\n" in above else above
    body = prompt.rstrip()
    cut = body.rfind("\n\n")
    return body[:cut].strip() if cut > 0 else body


def samples_from(trace: Trace) -> tuple[Document, list[Job], list[Sample], list[str]]:
    """Configuration, jobs, samples and what could not be used of a trace.

    Raises
    ------
    OptionError
        If nothing could.
    """
    config = config_from(trace)
    problems = list(trace.problems)
    questions: dict[str, Question] = {}
    found: dict[tuple[str, int], Case] = {}
    for case, repeat in latest_cases(trace):
        try:
            question = question_from(case)
            questions.setdefault(question.key, question)
            found[question.key, repeat] = case
        except (QuestionError, KeyError) as error:
            problems.append(f"{case.key}: {error}")
    if not questions:
        raise OptionError("trace: expected at least one case that can be read, found none")
    firsts = [next(case for (key, _), case in found.items() if key == k) for k in questions]
    config["prompt_version"] = prompt_version(list(questions.values()), firsts)
    repeats = 1 + max(repeat for _, repeat in found)
    every = make_jobs(config, list(questions.values()), repeats)
    asked = [job for job in every if (job.question.key, job.repeat) in found]
    jobs = [replace(job, n=n) for n, job in enumerate(asked, 1)]
    cases = [found[job.question.key, job.repeat] for job in jobs]
    header = trace.header
    sampling = Sampling(real(header, "temperature") or 0.0, seed=number(header, "seed") or 1)
    opened = config["think"] != "none"
    samples = [
        make_sample(
            job, _answer(case, opened, number(header, "max_tokens")), sampling, "", session=1
        )
        for job, case in zip(jobs, cases)
    ]
    return config, jobs, samples, problems


def _answer(case: Case, opened: bool, most: int | None) -> Answer:
    fields = case.fields
    output = case.blocks["MODEL_OUTPUT"].decode("utf-8", "replace")
    made = number(fields, "generated_tokens")
    # Of a stopped, dropped or unfinished case the reply was never complete.
    stop = {
        "SKIPPED": SKIPPED, "STOPPED": STOPPED, "SWITCHED": STOPPED, "ERROR": ERROR,
    }.get(fields.get("status", ""))  # fmt: skip
    if stop is None:
        stop = LIMIT if made is not None and most is not None and made >= most else EOS
    kind = fields.get("think_close", "none")
    effective = fields.get("think_mode_effective", "")
    return Answer(
        stop,
        output=output,
        prompt_tokens=number(fields, "prompt_tokens"),
        gen_tokens=made,
        think_tokens=number(fields, "think_close_token_index"),
        limit_tokens=most,
        opened=opened if not effective else effective != "none",
        close=kind if kind in _CLOSES else "none",
        close_index=number(fields, "think_close_token_index"),
        close_remaining=number(fields, "think_close_remaining_budget"),
        close_rank=number(fields, "think_close_rank"),
        decode_s=real(fields, "elapsed_sec") or 0.0,
        error=fields.get("error", ""),
    )
