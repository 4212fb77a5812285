"""Every reply of one run or two as one page that needs nothing else.

The page holds exam questions, keys and replies; it says so at its head. All of them are data for
the page's script, which puts them on the screen as text: nothing that a model wrote becomes markup.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from importlib import resources
from typing import Any

from ds4eval.compare.pairs import common_prefix
from ds4eval.plan import Job
from ds4eval.records.record import Sample
from ds4eval.screen.browse import Browsed
from ds4eval.screen.detail import cost_text
from ds4eval.screen.marks import answer_from, marks_of
from engine.tooling.exits import printable
from engine.tooling.report.labels import clean_label

WARNING = (
    "holds questions, keys and replies: keep it on this machine. The authors of GPQA and of other "
    "exams ask that questions are not shown online; one that a model has read measures nothing"
)


def replies_page(found: Browsed) -> str:
    """The page as HTML.

    Parameters
    ----------
    found : Browsed
        One run or two; their texts are untrusted.
    """
    parts = resources.files("ds4eval.screen") / "style"
    style, script, page = (
        (parts / name).read_text(encoding="utf-8")
        for name in ("replies.css", "replies.js", "replies.html")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # JSON inside a script element must not close it; the escape is JSON's own.
    data = json.dumps(_data(found), ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
    title = " | ".join(clean_label(name, 60) for name in found.names)
    fields = {
        "TITLE": _escaped(f"Replies of {title}"),
        "WARNING": _escaped(f"This page {WARNING}."),
        "HASH": digest,
        "STYLE": style,
        "SCRIPT": script,
        "DATA": data,
    }
    # In one pass: what is put in may look like another field.
    return re.sub(r"@@([A-Z]+)@@", lambda match: fields[match[1]], page)


def _escaped(text: str) -> str:
    from html import escape

    return escape(text, quote=True)


def _data(found: Browsed) -> dict[str, Any]:
    first = found.samples[0]
    second = found.samples[1] if len(found.samples) > 1 else {}
    rows = []
    for job in found.jobs:
        replies = [mine.get(job.n) for mine in found.samples]
        rows.append(
            {
                **_question(job, next((s for s in replies if s is not None), None)),
                "replies": [None if s is None else _reply(s) for s in replies],
                "part": _parting(first.get(job.n), second.get(job.n)),
            }
        )
    return {"names": [clean_label(name, 60) for name in found.names], "rows": rows}


def _question(job: Job, sample: Sample | None) -> dict[str, Any]:
    q = job.question
    return {
        "n": job.n,
        "id": _shown(q.id),
        "source": _shown(q.source),
        "repeat": job.repeat + 1,
        "domain": _shown(q.domain),
        "title": _shown(q.title),
        "text": _shown(q.text),
        "choices": [_shown(choice) for choice in q.choices],
        "key": "" if sample is None else _shown(sample.expected),
    }


def _reply(sample: Sample) -> dict[str, Any]:
    begin = answer_from(sample)
    cut = len(sample.output) if begin is None else begin
    end = cut - len("</think>") if begin else cut
    marks = marks_of(sample)
    return {
        "state": sample.state,
        "passed": sample.passed,
        "given": _shown(sample.given),
        "grades": [
            [name, verdict, _shown(given), _shown(rule)]
            for name, verdict, given, rule in (
                ("strict", sample.verdict, sample.given, sample.rule),
                ("lenient", sample.lenient_verdict, sample.lenient_given, sample.lenient_rule),
                ("classic", sample.classic_verdict, sample.classic_given, sample.classic_rule),
            )
        ],
        "cost": _shown(cost_text(sample)),
        "notes": [_shown(text) for text in [sample.error, *sample.notes] if text],
        "open": begin is None and bool(sample.output),
        "thinking": _pieces(sample.output, 0, end, marks),
        "answer": _pieces(sample.output, cut, len(sample.output), marks),
    }


def _pieces(reply: str, start: int, end: int, marks: list[Any]) -> list[list[Any]]:
    """Text in order, each piece with the graders that read it."""
    inner = {p for m in marks for p in (m.start, m.end) if start < p < end}
    cuts = sorted({start, end, *inner})
    return [
        [_shown(reply[a:b]), [m.grader for m in marks if m.start <= a and b <= m.end]]
        for a, b in itertools.pairwise(cuts)
    ]


def _parting(a: Sample | None, b: Sample | None) -> int | None:
    """Characters that two replies share; -1 for equal ones, None where one is missing."""
    if a is None or b is None:
        return None
    return -1 if a.output == b.output else common_prefix(a.output, b.output)


def _shown(text: str) -> str:
    """Text without characters that a reader cannot see or that turn a line around."""
    return printable(text.replace("\r\n", "\n").replace("\r", "\n"))
