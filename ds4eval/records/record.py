"""Defines the record of an answered question, and how a run's journal is replayed into records.

`samples.jsonl` (an `engine.tooling.results.journal`) is the source of truth; `results.csv` and
`results.parquet` are views without any question or reply text; `manifest.json` repeats the
journal's header for people and adds what changed while the run went on.
SCHEMA_VERSION 1 is the first.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TypedDict

from ds4eval.documents import Document
from engine.tooling.results.typed import HEX, NAME, Rules, typed

SCHEMA = "ds4eval.samples"
SCHEMA_VERSION = 1
JOURNAL, MANIFEST = "samples.jsonl", "manifest.json"
MOST_MANIFEST = 16 << 20  # bytes
CSV, PARQUET, REPORT = "results.csv", "results.parquet", "report.txt"

GRADERS = ("", "lenient_", "classic_")  # prefixes of their fields; the headline has none
# How generation ended.
EOS, LIMIT, STOPPED, SKIPPED, ERROR = "eos", "limit", "stopped", "skipped", "error"
# A server withheld the answer, or its model called a tool in place of answering.
FILTERED, CALLED = "filtered", "tool_call"
# A later run asks these questions again; the other stops are final.
UNFINISHED = frozenset({STOPPED, ERROR})
# Close kinds, as the C program ds4-eval names them.
NATURAL, SOFT, HARD, NOT_CLOSED = "natural", "soft_forced", "hard_forced", "none"


class AskedText(TypedDict, total=False):
    """The question of a sample as it was shown; `opened`: the prompt ended inside a think block.

    `form` is how its answer was asked for, left out where that is a line.
    """

    title: str
    text: str
    choices: list[str]
    opened: bool
    form: str


@dataclass(frozen=True, slots=True)
class Sample:
    """What happened to one question in one repeat.

    Parameters
    ----------
    key : str
        Hash of everything that decides the reply; one per (configuration, question, repeat).
    n : int
        1-based place in the run's list, only for people.
    source, id, domain, kind : str
        Of the question.
    strata : dict of str to str
    chance : float
        Probability of a blind guess.
    repeat : int
        From 0.
    seed, stream : int or None
        Of the sampler; the stream is derived from question and repeat.
    permutation : list of int
        Order of the choices shown, as indices into the published order.
    question_sha256, prompt_sha256 : str
        Of what was asked, and of the token ids (remote: of the message texts).
    stop : str
        'eos', 'limit', 'stopped' (by the user), 'skipped' (does not fit), 'error', or, of a
        server, 'filtered' (withheld) or 'tool_call' (no answer but a call).
    state : str
        PASSED, FAILED, TRUNCATED (the limit came before an answer line), INCOMPLETE (ended by
        itself without one), SKIPPED, STOPPED, ERROR, FILTERED or TOOL_CALL; by the headline grader.
    prompt_tokens, gen_tokens, think_tokens, limit_tokens : int or None
        The end token is not counted; None where a server does not say.
    special_in_data : int
        Texts of control tokens that the question contained; all became ordinary text.
    close, close_index, close_remaining, close_rank
        How thinking first closed, the 1-based place of the tag, budget left there, and the tag's
        place among the logits (0: forced without looking).
    expected, given, verdict, rule : str
        Headline (strict) grade; verdicts are 'pass', 'fail', 'none' and '' (not graded).
    lenient_*, classic_* : str
        The other two graders.
    precision, recall : float or None
        Of line sets.
    headline : str
        The grader that decided `state`; empty for the strict one.
    thinking : str
        'none', 'closed' or 'open', as the grader saw the text.
    output_sha256 : str
        Of the generated token ids (remote: of the text).
    error : str
    finish_reason : str
        A server's own word for how the reply ended; empty where it gave none.
    notes : list of str
        What was changed in the request for this server, and what its reply lacked.
    budget_tokens : int or None
        Budget under which a cut reply was asked for again (--retry-cut); None: the run's own.
    drafted, accepted : int
        Tokens proposed and kept by speculative decoding.
    started : str
        UTC time. This and the fields below may differ between equal runs.
    prefill_s, decode_s : float
        Seconds, pauses excluded.
    prefill_tokens : int
        Prompt tokens that were computed and not reused.
    session, worker, attempt : int
        Which opening of the run folder, which worker, which attempt at this question.
    question : AskedText
        Stays in the journal.
    output : str
        The reply as text, think tags included: stays in the journal.
    """

    key: str
    n: int
    source: str
    id: str
    domain: str
    kind: str
    chance: float
    repeat: int
    stop: str
    state: str
    expected: str
    question_sha256: str
    prompt_sha256: str = ""
    strata: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    stream: int | None = None
    permutation: list[int] = field(default_factory=list)
    prompt_tokens: int | None = None
    gen_tokens: int | None = None
    think_tokens: int | None = None
    limit_tokens: int | None = None
    special_in_data: int = 0
    close: str = NOT_CLOSED
    close_index: int | None = None
    close_remaining: int | None = None
    close_rank: int | None = None
    given: str = ""
    verdict: str = ""
    rule: str = ""
    lenient_given: str = ""
    lenient_verdict: str = ""
    lenient_rule: str = ""
    classic_given: str = ""
    classic_verdict: str = ""
    classic_rule: str = ""
    precision: float | None = None
    recall: float | None = None
    thinking: str = ""
    grader_version: str = ""
    headline: str = ""
    output_sha256: str = ""
    error: str = ""
    finish_reason: str = ""
    notes: list[str] = field(default_factory=list)
    budget_tokens: int | None = None
    started: str = ""
    prefill_s: float | None = None
    decode_s: float | None = None
    prefill_tokens: int | None = None
    drafted: int = 0
    accepted: int = 0
    session: int = 0
    worker: int = 0
    attempt: int = 1
    question: AskedText = field(default_factory=AskedText)
    output: str = ""

    @property
    def graded(self) -> bool:
        """Whether it counts in the number of graded questions."""
        return self.verdict != ""

    @property
    def passed(self) -> bool:
        return self.state == "PASSED"

    @property
    def other_form(self) -> bool:
        """Whether the answer is right, but not in the form that the prompt asks for."""
        return self.verdict != "pass" and self.lenient_verdict == "pass"

    @property
    def truncated(self) -> bool:
        """Whether the token budget cut the reply or closed its thinking."""
        return self.stop == LIMIT or self.close == HARD

    @property
    def touched(self) -> bool:
        """Whether a larger budget could have given another reply."""
        return self.truncated or self.close == SOFT

    @property
    def final(self) -> bool:
        """Whether a resumed run leaves it alone."""
        return self.stop not in UNFINISHED

    def record(self) -> Document:
        """The journal's form; what only some replies have is left out where it is empty."""
        fields = dataclasses.asdict(self)
        for name in OCCASIONAL:
            if not fields[name]:
                del fields[name]
        return {"type": "sample", **fields}


# Of some replies; records and tables of other runs are what they were before these came.
OCCASIONAL = ("finish_reason", "notes", "headline", "budget_tokens")
FIELDS = tuple(f.name for f in dataclasses.fields(Sample))
# Equal runs may differ in these and in nothing else.
VOLATILE = (
    "started",
    "prefill_s",
    "decode_s",
    "prefill_tokens",
    "session",
    "worker",
    "attempt",
    "n",
    "drafted",
    "accepted",
)
TABLE_FIELDS = tuple(name for name in FIELDS if name not in ("question", "output"))


def state_of(stop: str, verdict: str) -> str:
    """State of a sample from how it ended and what the headline grader said."""
    if stop in (SKIPPED, STOPPED, ERROR, FILTERED, CALLED):
        return stop.upper()
    if verdict == "pass":
        return "PASSED"
    if verdict == "fail":
        return "FAILED"
    return "TRUNCATED" if stop == LIMIT else "INCOMPLETE"


RULES = Rules(
    words={
        "stop": (EOS, LIMIT, STOPPED, SKIPPED, ERROR, FILTERED, CALLED),
        "state": (
            "PASSED", "FAILED", "TRUNCATED", "INCOMPLETE",
            "SKIPPED", "STOPPED", "ERROR", "FILTERED", "TOOL_CALL",
        ),
        "close": (NATURAL, SOFT, HARD, NOT_CLOSED),
        "thinking": ("", "none", "closed", "open"),
        "headline": ("", "strict", "lenient", "classic"),
        **{f"{grader}verdict": ("", "pass", "fail", "none") for grader in GRADERS},
    },
    patterns={
        "kind": NAME, "question_sha256": HEX, "prompt_sha256": HEX,
        "output_sha256": HEX,
    },
    # Texts of questions, of replies and of errors are anything; sinks clean them.
    text={
        "question": 1 << 24, "output": 1 << 28, "error": 1 << 16, "notes": 1 << 16,
        "expected": 1 << 20, "strata": 1 << 12, "domain": 1 << 12, "id": 1 << 12,
        **{f"{grader}given": 1 << 20 for grader in GRADERS},
    },
)  # fmt: skip


def sample_from(record: Document, where: str = "sample") -> Sample:
    """A sample from its journal record; fields that a later version added are dropped.

    Raises
    ------
    StoreError
        If a field is missing, or a value is not of its type, range or vocabulary.
    """
    return typed(Sample, record, RULES, where)


def comparable(sample: Sample) -> Document:
    """A sample without what may differ between equal runs."""
    record = dataclasses.asdict(sample)
    for name in VOLATILE:
        del record[name]
    return record


# What a `grade` record may change in an earlier sample.
GRADE_FIELDS = (
    "state",
    "given",
    "verdict",
    "rule",
    "lenient_given",
    "lenient_verdict",
    "lenient_rule",
    "classic_given",
    "classic_verdict",
    "classic_rule",
    "precision",
    "recall",
    "thinking",
    "grader_version",
    "headline",
)


def grade_record(sample: Sample) -> Document:
    """The journal's form of a new grade of an earlier sample."""
    grades = {name: getattr(sample, name) for name in GRADE_FIELDS}
    return {"type": "grade", "key": sample.key, **grades}
