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
from ds4eval.events import Ended
from ds4eval.exchange.trace import TraceWriter
from ds4eval.plan import (
    Job,
    ReplySettings,
    Sampling,
    budget_of,
    config_of,
    is_header_only,
    like,
    make_jobs,
)
from ds4eval.questions.source import Source, choose_source
from ds4eval.records.entries import entry_of
from ds4eval.records.record import Sample
from ds4eval.records.store import RunStore, peek_config
from ds4eval.report import text as report_text
from ds4eval.request import ModelOptions, ReplyOptions, Request
from ds4eval.run.folder import RUNS, choose_folder
from ds4eval.run.judge import check_baseline, judge
from ds4eval.run.runner import Recorder, done_jobs, run_parallel, run_serial
from ds4eval.screen.choose import open_screen
from engine.options import DSPARK_MODES
from engine.tooling.exits import ERROR, OK, error_line, say
from engine.tooling.options.model import uses_bundled
from engine.tooling.results.environment import command_line, environment
from engine.tooling.signals import StopSignals


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
    """

    request: Request
    source: Source
    settings: ReplySettings
    answerer: Answerer
    config: Document
    jobs: list[Job]
    folder: Path


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
        store.begin(plan.jobs, _environment(plan))
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
    source = choose_source(request.data, bundled=_is_bundled(model))
    settings = settings_of(reply, model, source.suite)
    answerer = prepare_answerer(model, settings, source.questions, ask=not request.output.dry_run)
    for notice in answerer.notices:
        say(notice)
    repeats, data = request.data.repeats, source.config()
    wants_seed = reply.temp > 0 and reply.seed is None
    draft = config_of(settings, answerer.think, answerer.identity, data)
    folder = choose_folder(
        request.output, source.suite, draft, source.questions, repeats, wants_seed
    )
    if folder.drawn:
        say(f"seed {folder.seed}")
    if folder.seed is not None:
        settings = settings.seeded(folder.seed)
    config = config_of(settings, answerer.think, answerer.identity, data)
    found = None if request.output.force else peek_config(folder.path)
    if found is not None and is_header_only(found) and not is_header_only(config):
        config = like(found, config)
        say(
            f"{folder.path}: header only: an earlier release began this run, and nothing in it "
            "tells models with equal headers apart; another --out starts a run that knows its "
            "weights"
        )
    jobs = make_jobs(config, source.questions, repeats)
    return RunPlan(request, source, settings, answerer, config, jobs, folder.path)


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
        budget_of(reply, suite),
        reply.think,
        model.mode,
        model.draft_max if model.mode in DSPARK_MODES else model.draft,
        model.draft_adaptive if model.mode in DSPARK_MODES else model.adaptive,
        model.margin,
        model.draft_confidence,
        explicit_tokens=reply.tokens is not None,
        encoding=reply.encoding,
    )


def _ask(plan: RunPlan, store: RunStore, trace: TraceWriter | None, control: Control) -> Ended:
    """Open what answers, unless everything is answered, and show the run."""
    done = done_jobs(plan.jobs, store)
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
        return Ended("done")
    recorder = Recorder(store, plan.settings, len(plan.jobs), trace)
    todo = [job for job in plan.jobs if job.n not in done]
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
    return {
        "command": command_line(),
        "environment": environment(),
        "data": plan.source.provenance(),
        "answered_by": plan.answerer.facts(),
        "repeats": plan.request.data.repeats,
        "jobs": plan.request.model.jobs,
    }


def _folder_text(plan: RunPlan) -> str:
    """The run folder; its usual name depends on the model, which a dry run does not ask for."""
    server = plan.request.model.server
    if plan.request.output.out is None and server is not None and server.model is None:
        return f"{RUNS}/{plan.source.suite}-..., named when the server has named its model"
    return str(plan.folder)


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
    if answerer.memory:
        say(f"memory: {answerer.memory}")
    return OK
