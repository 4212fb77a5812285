"""Defines an answer before it is graded: what a back end found out about one job."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Answer:
    """A back end's result for one job; `ds4eval.records.samples` grades it and makes the record.

    See `ds4eval.records.record.Sample` for the fields; `of_question`: a failure that says nothing
    of other questions.
    """

    stop: str
    output: str = ""
    prompt_sha256: str = ""
    output_sha256: str = ""
    prompt_tokens: int | None = None
    gen_tokens: int | None = None
    think_tokens: int | None = None
    limit_tokens: int | None = None
    special_in_data: int = 0
    opened: bool = False
    close: str = "none"
    close_index: int | None = None
    close_remaining: int | None = None
    close_rank: int | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    prefill_tokens: int | None = None
    drafted: int = 0
    accepted: int = 0
    error: str = ""
    finish_reason: str = ""
    notes: list[str] = field(default_factory=list)
    of_question: bool = False

    def about_question(self) -> Answer:
        """The same as a failure that says nothing of other questions."""
        return replace(self, of_question=True)
