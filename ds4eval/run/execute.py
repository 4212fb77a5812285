"""Carries out one run: from a checked request to records, a report and an exit status.

Order: everything that can be refused is refused before the model is loaded; the run folder is
locked before that too; results are durable question by question, tables and report are views.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click

from ds4eval.answering.choose import prepare_answerer
from ds4eval.answering.pool import Answerer, OneByOne
from ds4eval.control import Control
from ds4eval.documents import Document
from ds4eval.events import Ended, Opened
from ds4eval.exchange.trace import TraceWriter
from ds4eval.plan import (
    Job,
    ReplySettings,
    Sampling,
    budget_of,
    config_of,
    is_header_only,
    make_jobs,
)
from ds4eval.questions.source import Source, choose_source
from ds4eval.records.entries import entry_of
from ds4eval.records.record import Sample
from ds4eval.records.store import RunStore, peek_config
from ds4eval.report import text as report_text
from ds4eval.request import ModelOptions, ReplyOptions, Request
from ds4eval.run.continued import (
    Retry,
    done_jobs,
    earlier_forms,
    in_words_of,
    reply_options,
    retry_of,
)
from ds4eval.run.expect import WORTH_SAYING, Expectation, expectation
from ds4eval.run.folder import RUNS, choose_folder
from ds4eval.run.judge import check_baseline, check_headline, judge
from ds4eval.run.runner import Recorder, run_parallel, run_serial
from ds4eval.screen.choose import open_screen
from engine.options import DSPARK_MODES
from engine.tooling.exits import ERROR, OK, error_line, say
from engine.tooling.options.model import uses_bundled
from engine.tooling.results.environment import command_line, environment
from engine.tooling.results.redact import recordable
from engine.tooling.signals import StopSignals

# Facts of a machine that computes nothing where a server answers.
OF_MACHINE = ("cpu", "gpu", "memory_bytes", "machine", "system")


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run that may begin.

    Attributes
    ----------
    request : Request
        What the command line asked for.
    source : Source
    settings : ReplySettings
        Completed by the suite's defaults and the seed.
    answerer : Answerer
        Examined, not loaded.
    config : dict
        Everything that decides a reply.
    jobs : list of Job
    folder : Path
    retry : Retry or None
        Of --retry-cut.
    """

    request: Request
    source: Source
    settings: ReplySettings
    answerer: Answerer
    config: Document
    jobs: list[Job]
    folder: Path
    retry: Retry | None = None


def execute(request: Request) -> int:
    """Do what a command line asks for; returns the exit status.

    Raises
    ------
    EngineError
        Of options, data, the model file or the results store.
    """
    baseline = check_baseline(request.gates.baseline)
    plan = make_plan(request)
    if request.output.dry_run:
        return _dry_run(plan)
    with (
        RunStore.open(
            plan.folder,
            plan.config,
            answered_by=plan.answerer.facts(),
            force=request.output.force,
            allow_network_fs=request.output.allow_network_fs,
        ) as store,
        _trace(plan) as trace,
    ):
        for notice in store.notices:
            say(notice)
        check_headline(store.samples.values(), request.gates.headline, plan.folder)
        keep = plan.request.output.record_paths
        store.begin(plan.jobs, recordable(_environment(plan), paths=keep))
        say(f"run folder: {plan.folder}")
        control = Control()
        with stop_signals(control) as signals:
            ended = _ask(plan, store, trace, control)
        samples = _samples(plan, store)
        entries = [entry_of(job) for job in plan.jobs]
        text = report_text.report(entries, samples, request.data.repeats)
        store.publish(force=True, report=text)
        if trace is not None:
            whole, _ = report_text.tallies(entries, samples)
            classic = sum(s.classic_verdict == "pass" for s in samples.values())
            trace.summary(classic, whole.graded - classic, len(plan.jobs))
    sys.stdout.write(text)
    sys.stdout.flush()
    if signals.exit_code is not None:
        say(f"interrupted; the same command goes on in {plan.folder}")
        return signals.exit_code
    if ended.why == "failed":
        say(error_line("ds4-eval", ended.message))
        return ERROR
    return judge(entries, samples, request.gates, baseline)


def stop_signals(control: Control) -> StopSignals:
    """SIGINT, SIGTERM and SIGHUP end a run between tokens; a second one ends it at once."""

    def stop(number: int, earlier: int) -> None:
        if earlier:
            raise KeyboardInterrupt
        control.quit()

    return StopSignals(stop)


def make_plan(request: Request) -> RunPlan:
    """Questions, settings, what answers, folder, seed, jobs: each follows from those before it."""
    model, reply = request.model, request.reply
    source = choose_source(request.data, bundled=_is_bundled(model)).asked(reply.form)
    out, force = request.output.out, request.output.force
    found = None if out is None or force else peek_config(out)
    reply = reply_options(reply, found)
    request = replace(request, reply=reply)
    settings = settings_of(reply, model, source.suite)
    answerer = prepare_answerer(model, settings, source.questions, ask=not request.output.dry_run)
    for notice in answerer.notices:
        say(notice)
    repeats, data = request.data.repeats, source.config()
    wants_seed = reply.temp > 0 and reply.seed is None
    draft = config_of(settings, answerer.think, answerer.identity, data)
    earlier = earlier_forms(draft, settings)
    folder = choose_folder(
        request.output, source.suite, draft, source.questions, repeats, wants_seed, earlier
    )
    if folder.drawn:
        say(f"seed {folder.seed}")
    if folder.seed is not None:
        settings = settings.seeded(folder.seed)
    config = config_of(settings, answerer.think, answerer.identity, data)
    found = None if force else peek_config(folder.path)
    if found is not None and is_header_only(found) and not is_header_only(config):
        say(
            f"{folder.path}: header only: an earlier release began this run, and nothing in it "
            "tells models with equal headers apart; another --out starts a run that knows its "
            "weights"
        )
    config = in_words_of(found, config, settings, request)
    jobs = make_jobs(config, source.questions, repeats)
    retry = retry_of(request, found)
    return RunPlan(request, source, settings, answerer, config, jobs, folder.path, retry)


def _is_bundled(model: ModelOptions) -> bool:
    return model.server is None and uses_bundled(model.path, model.nano)


def settings_of(reply: ReplyOptions, model: ModelOptions, suite: str) -> ReplySettings:
    """Sampling and budget of a suite's replies; without --seed, seed 1 stands in for it.

    Raises
    ------
    OptionError
        If limits contradict each other.
    """
    return ReplySettings(
        Sampling(reply.temp, reply.top_k, reply.top_p, reply.min_p, reply.seed or 1),
        budget_of(reply, suite, closes=model.server is None),
        reply.think,
        model.mode,
        model.draft_max if model.mode in DSPARK_MODES else model.draft,
        model.draft_adaptive if model.mode in DSPARK_MODES else model.adaptive,
        model.margin,
        model.draft_confidence,
        explicit_tokens=reply.tokens is not None,
        encoding=reply.encoding,
        form=reply.form,
    )


def _ask(plan: RunPlan, store: RunStore, trace: TraceWriter | None, control: Control) -> Ended:
    """Open what answers, unless everything is answered, and show the run."""
    done = done_jobs(plan.jobs, store, plan.retry)
    if trace is not None:
        answerer = plan.answerer
        trace.header(
            answerer.name,
            plan.request.model.backend,
            answerer.ctx,
            answerer.longest,
            len(plan.jobs),
        )
        for n, sample in done.items():
            trace.case(plan.jobs[n - 1], len(plan.jobs), sample)
    if len(done) == len(plan.jobs):
        say(f"all {len(done)} questions are answered already; --force asks them again")
        opened = Opened(plan.jobs, done, plan.answerer.ctx, plan.settings.budget.tokens)
        screen = open_screen(plan.request.output, serial=True, over=True)
        return screen.show([opened, Ended("done")], control)
    headline = plan.request.gates.headline
    recorder = Recorder(
        store, plan.settings, len(plan.jobs), trace, headline=headline, retry=plan.retry
    )
    if plan.retry is not None:
        cut = sum(map(plan.retry.due, store.samples.values()))
        say(f"{cut} replies that {plan.retry.before} tokens cut are asked for again")
    todo = [job for job in plan.jobs if job.n not in done]
    expected = _expected(plan, len(todo))
    if expected.most >= WORTH_SAYING:
        say(expected.line())
    ctx = plan.answerer.ctx
    with plan.answerer.opened(plan.settings, todo) as answering:
        if isinstance(answering, OneByOne):
            events = run_serial(plan.jobs, answering.backend, recorder, control, ctx)
        else:
            events = run_parallel(plan.jobs, answering.pool, recorder, control, ctx)
        screen = open_screen(plan.request.output, serial=isinstance(answering, OneByOne))
        return screen.show(events, control)


def _samples(plan: RunPlan, store: RunStore) -> dict[int, Sample]:
    """Samples by job number, unfinished ones included."""
    found = {job.n: store.samples.get(job.key) for job in plan.jobs}
    return {n: replace(s, n=n) for n, s in found.items() if s is not None}


@contextlib.contextmanager
def _trace(plan: RunPlan) -> Iterator[TraceWriter | None]:
    path = plan.request.output.trace
    if path is None:
        yield None
        return
    writer = TraceWriter(path, plan.settings, plan.answerer.think)
    try:
        yield writer
    finally:
        writer.close()


def _environment(plan: RunPlan) -> Document:
    machine = environment()
    if plan.request.model.server is not None:
        # The server's machine is not known, and this one's says nothing of the replies.
        machine = {name: value for name, value in machine.items() if name not in OF_MACHINE}
    retry = {} if plan.retry is None else {"retry_tokens": plan.retry.tokens}
    return {
        "command": command_line(),
        "environment": machine,
        "data": plan.source.provenance(),
        "answered_by": plan.answerer.facts(),
        "repeats": plan.request.data.repeats,
        "jobs": plan.request.model.jobs,
        "headline": plan.request.gates.headline,
        "recipe": plan.request.recipe.record(),
        **retry,
    }


def _folder_text(plan: RunPlan) -> str:
    """The run folder; its usual name depends on the model, which a dry run does not ask for."""
    server = plan.request.model.server
    if plan.request.output.out is None and server is not None and server.model is None:
        return f"{RUNS}/{plan.source.suite}-..., named when the server has named its model"
    return str(plan.folder)


def _expected(plan: RunPlan, replies: int) -> Expectation:
    tokens, jobs = plan.settings.budget.tokens, plan.request.model.jobs
    return expectation(replies, tokens, plan.source.suite, plan.config, plan.folder, jobs)


def _dry_run(plan: RunPlan) -> int:
    answerer, budget = plan.answerer, plan.settings.budget
    sources: dict[str, int] = {}
    for job in plan.jobs:
        sources[job.question.source] = sources.get(job.question.source, 0) + 1
    click.echo(f"suite {plan.source.suite}: {len(plan.jobs)} questions to ask")
    for name, number in sources.items():
        click.echo(f"  {name}: {number}")
    click.echo(f"answered by {answerer.name}")
    click.echo(f"context {answerer.ctx}, longest prompt {answerer.longest}, budget {budget.tokens}")
    click.echo(f"think mode {answerer.think}; run folder {_folder_text(plan)}")
    click.echo(_expected(plan, len(plan.jobs)).line())
    if answerer.memory:
        say(f"memory: {answerer.memory}")
    return OK
