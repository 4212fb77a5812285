"""What a command takes over from the run that its folder holds, and what it asks again there.

A run goes on only under its own conditions (`ds4eval.records.conditions`). Some of them a command
cannot know: a budget that nobody named, the words of an earlier release, the address that a server
had before. Others it changes on purpose: --retry-cut gives a larger budget to replies that the
run's own cut. The rest of the run stays as it is, and so do its keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from ds4eval.documents import Document, section
from ds4eval.plan import Job, ReplySettings, header_only, is_header_only
from ds4eval.records.record import Sample
from ds4eval.records.store import RunStore
from ds4eval.request import ReplyOptions, Request
from engine.errors import OptionError


@dataclass(frozen=True, slots=True)
class Retry:
    """A larger budget for what a smaller one cut.

    Parameters
    ----------
    before, tokens : int
        Budget of the run, and of this command.
    """

    before: int
    tokens: int

    def due(self, sample: Sample) -> bool:
        """Whether a final answer is asked for again: it was cut, or nearly, by a smaller budget."""
        return sample.touched and (sample.budget_tokens or self.before) < self.tokens


def number_of(document: Document, name: str) -> int | None:
    """A whole number of a document, None where there is none."""
    value = document.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def reply_options(reply: ReplyOptions, found: Document | None) -> ReplyOptions:
    """Options of the reply, completed by the budget of the run that the folder holds.

    Raises
    ------
    OptionError
        If --retry-cut finds no run.
    """
    budget = {} if found is None else section(found, "budget")
    tokens = number_of(budget, "tokens")
    if not reply.retry_cut:
        return reply if reply.tokens is not None or tokens is None else replace(
            reply, tokens=tokens
        )  # fmt: skip
    if tokens is None:
        raise OptionError("--retry-cut: expected a run in --out, found none")
    if reply.tokens is None or reply.tokens <= tokens:
        shown = "none" if reply.tokens is None else reply.tokens
        raise OptionError(
            f"--retry-cut: expected a budget (-n) above the run's own {tokens}, found {shown}"
        )
    soft = number_of(budget, "soft") if reply.soft is None else reply.soft
    hard = number_of(budget, "hard") if reply.hard is None else reply.hard
    return replace(reply, soft=soft, hard=hard)


def retry_of(request: Request, found: Document | None) -> Retry | None:
    """What --retry-cut asks for; see `reply_options` for what it refuses."""
    before = None if found is None else number_of(section(found, "budget"), "tokens")
    tokens = request.reply.tokens
    if not request.reply.retry_cut or before is None or tokens is None:
        return None
    return Retry(before, tokens)


def in_words_of(
    found: Document | None, config: Document, settings: ReplySettings, request: Request
) -> Document:
    """The configuration as the run of the folder has it, apart from what really differs."""
    if found is None:
        return config
    if is_header_only(found) and not is_header_only(config):
        config = header_only(config)
    budget, there = section(config, "budget"), section(found, "budget")
    if request.reply.retry_cut:
        budget = {**budget, "tokens": there.get("tokens")}
    if request.model.server is not None:
        idle = {**asdict(settings.budget), "tokens": budget.get("tokens")}
        budget = idle if there == idle else budget
        model = section(config, "model")
        before = section(found, "model").get("server")
        if request.model.server.moved and before:
            config = {**config, "model": {**model, "server": before}}
    return {**config, "budget": budget}


def earlier_forms(config: Document, settings: ReplySettings) -> list[Document]:
    """Configurations under which earlier releases began and named the same run."""
    forms = [header_only(config)]
    if section(config, "model").get("backend") == "remote":
        # They wrote down limits of thinking, which no server obeys.
        forms.append({**config, "budget": asdict(settings.budget)})
    return forms


def done_jobs(
    jobs: Sequence[Job], store: RunStore, retry: Retry | None = None
) -> dict[int, Sample]:
    """Samples that an earlier opening of the folder left, by job number."""
    found = {job.n: store.samples.get(job.key) for job in jobs}
    return {
        n: sample
        for n, sample in found.items()
        if sample is not None and sample.final and not (retry is not None and retry.due(sample))
    }
