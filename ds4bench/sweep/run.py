"""Runs one sweep from a validated plan to an exit status: inspect, check, measure, publish.

This module orders the steps; each step is another module's. It does not parse options.
"""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import psutil

from ds4bench.plan import SweepPlan
from ds4bench.records import csv_text as records_csv
from ds4bench.records.files import (
    bandwidth_text,
    environment_of,
    is_greedy,
    machine_bandwidth,
    publish_views,
    unsteady,
)
from ds4bench.records.rows import SpeedRow, stamped
from ds4bench.sweep.cells import Runner
from ds4bench.sweep.checks import (
    check_model,
    check_prompt,
    fingerprint,
)
from ds4bench.sweep.circumstances import (
    doctor_warnings,
    other_work,
    sampler_of,
    start_record,
)
from ds4bench.sweep.files import write_stdout
from ds4bench.sweep.findings import dry_run_text, findings, prediction_text
from ds4bench.sweep.opened import Outputs, check_outputs, open_journal
from ds4bench.sweep.progress import ProgressScreen
from ds4bench.sweep.stop import SweepSignals
from ds4bench.sweep.timed import timed_code
from ds4bench.sweep.watchdog import FIRST_TIMEOUT_S
from ds4bench.telemetry.machines import KnownMachine
from ds4bench.telemetry.nvml import Gpu
from ds4bench.telemetry.sampler import TelemetrySampler
from ds4bench.worker.child import DEFAULT, Child, ChildDied, Interrupted
from ds4bench.worker.facts import ModelFacts, PromptFacts
from ds4bench.worker.messages import Encode, Inspect, MeasureBandwidth
from engine.errors import EngineError
from engine.options import EngineOptions
from engine.tooling import exits
from engine.tooling.check_values import check_values
from engine.tooling.results.environment import cpu
from engine.tooling.results.journal import Journal
from engine.tooling.results.redact import recordable

# Publishing rewrites whole files, so it happens rarely and between timed windows.
PUBLISH_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class SweepRequest:
    """A sweep as the command line asked for it, beyond the plan itself."""

    plan: SweepPlan
    outputs: Outputs
    resume: bool = False
    force: bool = False
    retry_failed: bool = False
    dry_run: bool = False
    row_timeout_s: float | None = None
    allow_network_fs: bool = False
    record_paths: bool = False
    predict: tuple[KnownMachine, ...] = ()
    worker: str = DEFAULT
    telemetry_s: float = 1.0


def execute(request: SweepRequest) -> int:
    """Run a sweep.

    Returns
    -------
    int
        An exit status of `engine.tooling.exits`.

    Raises
    ------
    EngineError
        If the sweep could not start, or its results could not be written.
    """
    plan = request.plan
    check_outputs(request.outputs, request.resume or request.force or request.dry_run)
    with SweepSignals() as signals, contextlib.ExitStack() as stack:
        gpu = Gpu(ordinal=plan.device)
        sampler = sampler_of(plan, gpu, request.telemetry_s)
        child = stack.enter_context(
            Child(request.worker, tick=sampler.tick, stop_now=lambda: signals.now)
        )
        sampler.pid = lambda: child.pid
        try:
            limit = request.row_timeout_s or FIRST_TIMEOUT_S
            # Headers, then the prompt; weights are not touched yet.
            facts = child.request(limit, Inspect(plan))
            free = psutil.virtual_memory().available
            check_model(plan, facts, free)
            prompt = child.request(limit, Encode())
            check_prompt(plan, prompt.n_tokens)
            if request.dry_run:
                bandwidth = child.request(limit, MeasureBandwidth())
                # Once more: a burst of other work is short, and a plan is in no hurry.
                bandwidth = bandwidth.joined(child.request(limit, MeasureBandwidth()))
                print(dry_run_text(plan, facts, prompt, bandwidth, request.predict, free))
                return exits.OK
            machine = _machine(plan, gpu)
            same = fingerprint(plan, facts, machine, timed_code())
            journal = stack.enter_context(
                open_journal(
                    request.outputs,
                    plan,
                    same,
                    resume=request.resume,
                    force=request.force,
                    allow_network_fs=request.allow_network_fs,
                    record_paths=request.record_paths,
                )
            )
            request = replace(request, plan=_checked(plan, signals))
            sweep = _Sweep(request, facts, prompt, journal, child, sampler, gpu, signals)
            return sweep.run()
        except Interrupted:
            return signals.exit_code or exits.INTERRUPTED
        except ChildDied as death:
            raise EngineError(f"{plan.model}: expected a model that loads, found {death}") from None


def _checked(plan: SweepPlan, signals: SweepSignals) -> SweepPlan:
    """Scan the model's values where that takes long; the worker need not do it again."""

    def tick() -> None:
        if signals.now:
            raise Interrupted

    options = EngineOptions(
        path=plan.model,
        mtp_path=plan.mtp,
        dspark_path=plan.dspark,
        draft_force=plan.draft_force,
        check_values=plan.check_values,
        kv=plan.kv,
    )
    return replace(plan, check_values=check_values(options, tick).check_values)


def _machine(plan: SweepPlan, gpu: Gpu) -> dict[str, object]:
    """What computes: a journal records it once, so that rows of another one must not join them."""
    found = cpu()
    machine: dict[str, object] = {"cpu": found.get("name"), "cores": found.get("usable_cores")}
    if "flags" in found:
        machine["cpu_flags"] = found["flags"]
    if plan.backend == "cuda":
        device = gpu.facts()
        machine.update(gpu=device.get("name"), driver=device.get("driver"))
    return machine


class _Sweep:
    """The part of a sweep that holds an open journal."""

    def __init__(
        self,
        request: SweepRequest,
        facts: ModelFacts,
        prompt: PromptFacts,
        journal: Journal,
        child: Child,
        sampler: TelemetrySampler,
        gpu: Gpu,
        signals: SweepSignals,
    ) -> None:
        self.request = request
        self.facts = facts
        self.prompt = prompt
        self.journal = journal
        self.child = child
        self.gpu = gpu
        self.signals = signals
        self.published_at = time.monotonic()
        self.busy = other_work()  # the worker waits for us now
        self.to_stdout = request.outputs.csv is None and request.outputs.journal is None
        plan = request.plan
        self.runner = Runner(
            plan,
            journal,
            journal.header["fingerprint_digest"],
            child,
            sampler,
            [entry for file in facts.files for entry in file.stat],
            retry_failed=request.retry_failed,
            timeout_s=request.row_timeout_s,
            stop=lambda: signals.number is not None,
            on_row=self._on_row,
            note=lambda text: self.screen.note(text),
        )
        todo = len(self.runner.todo())
        self.screen = ProgressScreen(plan.n_rows, plan.n_rows - todo)

    def run(self) -> int:
        """Measure, publish, say what was found."""
        plan = self.request.plan
        if self.journal.moved_aside:
            self.screen.note(f"journal: damaged tail moved to {self.journal.moved_aside}")
        for key in self.runner.parked:
            self.screen.note(f"row {key}: crashed three times, left alone")
        finished = False
        try:
            if self.to_stdout:
                self._show(records_csv.header(plan.upstream_only))
            if self.runner.todo():
                self._start()
                self.signals.measuring = True
                finished = self.runner.run()
            else:
                self.screen.note("every row is there already")
                finished = True
        except Interrupted:
            finished = False
        except EngineError:
            # The rows before it are in the journal; the views should not lag behind.
            with contextlib.suppress(EngineError):
                self._publish()
            raise
        finally:
            self.child.kill()
            if self.signals.number is not None and not finished:
                self.screen.note(f"stopped; {self._what_is_kept()}")
            self.screen.close()
        environment_record = self._publish()
        self._plot()
        rows = stamped(self.runner.rows, is_greedy(environment_record))
        for text in findings(rows, plan):
            self.screen.note(f"warning: {text}")
        if self.request.predict:
            for line in prediction_text(rows, self.request.predict).splitlines():
                self.screen.note(line)
        return self._status(rows, finished)

    def _start(self) -> None:
        limit = self.request.row_timeout_s or FIRST_TIMEOUT_S
        bandwidth = self.child.request(limit, MeasureBandwidth())
        engine = self.runner.prepare()
        # Loading and warming up took a while: what disturbed the first passes may be over.
        bandwidth = bandwidth.joined(self.child.request(limit, MeasureBandwidth()))
        if unsteady(bandwidth.passes_bytes_per_s):
            rates = bandwidth.passes_bytes_per_s
            self.screen.note(f"warning: memory bandwidth: {bandwidth_text(rates)}")
        record = start_record(
            self.request.plan, self.facts, self.prompt, engine, bandwidth, self.gpu, self.busy
        )
        for line in doctor_warnings(record):
            self.screen.note(f"warning: {line}")
        record = recordable(record, paths=self.request.record_paths)
        self.journal.append({"kind": "start", "at": time.time(), "environment": record})

    def _on_row(self, row: SpeedRow) -> None:
        upstream_only = self.request.plan.upstream_only
        if self.to_stdout and (row.ok or not upstream_only):
            bandwidth = machine_bandwidth(self._environment())
            self._show(records_csv.line(row, upstream_only, bandwidth), row)
        else:
            self.screen.row(row)
        if time.monotonic() - self.published_at > PUBLISH_EVERY_S:
            self._publish()

    def _show(self, text: str, row: SpeedRow | None = None) -> None:
        """A line of CSV, and the progress that it is; once where one terminal would show both."""
        one_terminal = sys.stdout.isatty() and self.screen.stream.isatty()
        if not one_terminal:
            if row is not None:
                self.screen.row(row)
            write_stdout(text)
        elif row is not None:
            self.screen.row(row, text.rstrip("\n"))
        else:
            self.screen.note(text.rstrip("\n"))

    def _what_is_kept(self) -> str:
        if self.request.outputs.journal is not None:
            return "finished rows are safe, --resume goes on"
        # The journal was a temporary one: what standard output has is all that there is.
        return (
            "finished rows are on standard output only, and a new sweep starts over "
            "(--out DIR keeps them and lets --resume go on)"
        )

    def _environment(self) -> dict[str, Any]:
        return environment_of(self.journal.header, self.journal.records)

    def _publish(self) -> dict[str, Any]:
        outputs = self.request.outputs
        record = self._environment()
        publish_views(
            self.runner.rows,
            record,
            csv_path=outputs.csv,
            parquet_path=outputs.parquet,
            upstream_only=self.request.plan.upstream_only,
        )
        self.published_at = time.monotonic()
        return record

    def _plot(self) -> None:
        plot = self.request.outputs.plot
        if plot is None or not any(row.ok for row in self.runner.rows):
            return
        from ds4bench.report.draw import draw  # matplotlib: only where a plot was asked for

        # A sweep's own figure follows its rows; whatever was there was asked about at the start.
        draw((self.journal.path,), None, (plot,), replace=True)

    def _status(self, rows: list[SpeedRow], finished: bool) -> int:
        if self.signals.exit_code is not None:
            return self.signals.exit_code
        if any(row.lossless is False for row in rows):
            return exits.NOT_LOSSLESS
        if not finished or any(not row.ok for row in rows):
            return exits.PARTIAL
        return exits.OK
