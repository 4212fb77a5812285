"""One run from a checked command line to an exit status: questions, model, folder, screen, report.

Order: everything that can be refused is refused before the model is loaded; the run folder is
locked before that too; results are durable question by question, tables and report are views.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import click

from ds4eval.commands.run import NANO_HARD, NANO_SOFT, NANO_TOKENS, Request
from ds4eval.exchange.trace import TraceWriter
from ds4eval.plan import Budget, Job, Sampling, Settings, config_digest, config_of, make_jobs
from ds4eval.questions.source import Source, choose_source
from ds4eval.records import record as records
from ds4eval.records.record import Sample
from ds4eval.records.store import RunStore, peek_config
from ds4eval.report import text as report_text
from ds4eval.run.events import Ended
from ds4eval.run.judge import judge
from ds4eval.run.runner import Control, Recorder, done_jobs, run_parallel, run_serial
from engine.errors import OptionError
from engine.tooling.exits import INTERRUPTED, say

RUNS = Path("ds4-eval-runs")


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that may begin."""

    request: Request
    source: Source
    settings: Settings
    answerer: Any  # ds4eval.answering.choose: knows context and think mode, opens pool or back end
    config: dict[str, Any]
    jobs: list[Job]
    folder: Path


def execute(request: Request) -> int:
    """Do what a command line asks for; returns the exit status.

    Raises
    ------
    EngineError
        Of options, data, the model file or the results store.
    """
    from ds4eval.run.judge import check_baseline

    baseline = check_baseline(request.baseline)
    plan = make_plan(request)
    if request.dry_run:
        return _dry_run(plan)
    with (
        RunStore.open(
            plan.folder,
            plan.config,
            force=request.force,
            allow_network_fs=request.allow_network_fs,
        ) as store,
        _trace(plan) as trace,
    ):
        for notice in store.notices:
            say(notice)
        store.begin(plan.jobs, _environment(plan))
        say(f"run folder: {plan.folder}")
        control = Control()
        with _Signals(control) as signals:
            ended = _ask(plan, store, trace, control)
        samples = _samples(plan, store)
        entries = [job.entry for job in plan.jobs]
        text = report_text.report(entries, samples, request.repeats)
        store.publish(force=True, report=text)
        if trace is not None:
            whole, _ = report_text.tallies(entries, samples)
            classic = sum(s.classic_verdict == "pass" for s in samples.values())
            trace.summary(classic, whole.graded - classic, len(plan.jobs))
    sys.stdout.write(text)
    sys.stdout.flush()
    if signals.number is not None:
        say(f"interrupted; the same command goes on in {plan.folder}")
        return INTERRUPTED if signals.number == signal.SIGINT else 128 + signals.number
    if ended.why == "failed":
        say(f"ds4-eval: {ended.message}")
        return 4
    return judge(entries, samples, request, baseline)


def make_plan(request: Request) -> Plan:
    """Questions, settings, configuration, jobs and folder of a run."""
    from ds4eval.answering.choose import choose_answerer

    source = choose_source(request)
    settings = make_settings(request, source)
    answerer = choose_answerer(request, settings, source)
    settings = answerer.settings
    data = source.config()
    think = answerer.think
    config = config_of(settings, think, answerer.identity, data)
    folder, settings = _folder(request, settings, config, source, answerer, think, data)
    config = config_of(settings, think, answerer.identity, data)
    answerer.settings = settings
    jobs = make_jobs(config, source.questions, request.repeats)
    return Plan(request, source, settings, answerer, config, jobs, folder)


def make_settings(request: Request, source: Source) -> Settings:
    """Sampling and budget; the nano suite's replies are short, and so is its budget.

    Raises
    ------
    OptionError
        If limits contradict each other.
    """
    base = Budget()
    if source.suite == "nano":
        base = Budget(tokens=NANO_TOKENS, soft=NANO_SOFT, hard=NANO_HARD)
    if source.suite == "nano" and request.tokens is not None and request.tokens > NANO_TOKENS:
        base = Budget()
    named = request.tokens is not None
    hard = request.hard_limit_reply_budget
    soft = request.soft_limit_reply_budget
    budget = Budget(
        tokens=request.tokens if named else base.tokens,
        hard=base.hard if hard is None else hard,
        soft=base.soft if soft is None else soft,
        rank=request.soft_limit_think_close_rank,
        cue=request.close_cue,
    )
    budget.check(request.think)
    sampling = Sampling(
        request.temp, request.top_k, request.top_p, request.min_p, request.seed or 1
    )
    return Settings(sampling, budget, request.think, request.mode, request.draft, named)


def _folder(
    request: Request,
    settings: Settings,
    config: dict[str, Any],
    source: Source,
    answerer: Any,
    think: str,
    data: dict[str, Any],
) -> tuple[Path, Settings]:
    """Run folder and settings with the seed that goes with it.

    A sampled run without --seed takes the seed of the unfinished run in its folder; a new one
    draws its seed. Without --out, a finished sampled run is left alone and the next one is made.
    """
    wants_seed = settings.sampling.temp > 0 and request.seed is None

    def adopted(folder: Path) -> Settings | None:
        found = peek_config(folder)
        if found is None:
            return None
        if not wants_seed:
            return settings
        seed = found.get("sampling", {}).get("seed", 1)
        return replace(settings, sampling=replace(settings.sampling, seed=seed))

    def fresh() -> Settings:
        if not wants_seed:
            return settings
        seed = secrets.randbits(32) or 1
        say(f"seed {seed}")
        return replace(settings, sampling=replace(settings.sampling, seed=seed))

    if request.out is not None:
        there = None if request.force else adopted(request.out)
        return request.out, there or fresh()
    name = f"{source.suite}-{config_digest(config, without_seed=wants_seed)}"
    for number in range(1, 10_000):
        folder = RUNS / (name if number == 1 else f"{name}-{number}")
        there = adopted(folder)
        if there is None or request.force:
            return folder, fresh()
        if not wants_seed:
            return folder, settings
        own = config_of(there, think, answerer.identity, data)
        jobs = make_jobs(own, source.questions, request.repeats)
        final = {s.key for s in records.read_run(folder).samples if s.final}
        if any(job.key not in final for job in jobs):
            return folder, there
    raise OptionError(f"--out: expected a folder, found {RUNS} full of runs of this kind")


def _ask(plan: Plan, store: RunStore, trace: TraceWriter | None, control: Control) -> Ended:
    """Open what answers, unless everything is answered, and show the run."""
    from ds4eval.screen.choose import open_screen

    done = done_jobs(plan.jobs, store)
    if trace is not None:
        answerer = plan.answerer
        trace.header(
            answerer.name, plan.request.backend, answerer.ctx, answerer.longest, len(plan.jobs)
        )
        for n, sample in done.items():
            trace.case(plan.jobs[n - 1], len(plan.jobs), sample)
    if len(done) == len(plan.jobs):
        say(f"all {len(done)} questions are answered already; --force asks them again")
        return Ended("done")
    recorder = Recorder(store, plan.settings, len(plan.jobs), trace)
    todo = [job for job in plan.jobs if job.n not in done]
    with plan.answerer.opened(todo) as (kind, what):
        run = run_serial if kind == "serial" else run_parallel
        events = run(plan.jobs, what, recorder, control, plan.answerer.ctx)
        screen = open_screen(plan.request, serial=kind == "serial")
        return screen.show(events, control)


def _samples(plan: Plan, store: RunStore) -> dict[int, Sample]:
    """Samples by job number, unfinished ones included."""
    found = {job.n: store.samples.get(job.key) for job in plan.jobs}
    return {n: replace(s, n=n) for n, s in found.items() if s is not None}


@contextlib.contextmanager
def _trace(plan: Plan) -> Iterator[TraceWriter | None]:
    path = plan.request.trace
    if path is None:
        yield None
        return
    writer = TraceWriter(path, plan.settings, plan.answerer.think)
    try:
        yield writer
    finally:
        writer.close()


def _environment(plan: Plan) -> dict[str, Any]:
    from engine.tooling.results.environment import command_line, environment

    return {
        "command": command_line(),
        "environment": environment(),
        "data": plan.source.provenance(),
        "answered_by": plan.answerer.facts(),
        "repeats": plan.request.repeats,
        "jobs": plan.request.jobs,
    }


def _dry_run(plan: Plan) -> int:
    answerer, budget = plan.answerer, plan.settings.budget
    sources: dict[str, int] = {}
    for job in plan.jobs:
        sources[job.question.source] = sources.get(job.question.source, 0) + 1
    click.echo(f"suite {plan.source.suite}: {len(plan.jobs)} questions to ask")
    for name, number in sources.items():
        click.echo(f"  {name}: {number}")
    click.echo(f"answered by {answerer.name}")
    click.echo(f"context {answerer.ctx}, longest prompt {answerer.longest}, budget {budget.tokens}")
    click.echo(f"think mode {answerer.think}; run folder {plan.folder}")
    return 0


class _Signals:
    """SIGINT, SIGTERM and SIGHUP end the run between tokens; a second one ends it at once."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
        self.control.quit()

    def __enter__(self) -> _Signals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
