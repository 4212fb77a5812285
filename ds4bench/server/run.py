"""Runs a sweep of a server from a validated plan to an exit status: ask, measure, publish.

The journal, its views and the screen are those of any sweep; what is timed is the server's replies.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import Any

from ds4bench.plan import GIVE_UP_AFTER
from ds4bench.records import csv_text as records_csv
from ds4bench.records.files import environment_of, publish_views, rows_of
from ds4bench.records.rows import DISTURBED, SpeedRow, stamped
from ds4bench.server.ask import Server
from ds4bench.server.facts import LIMITS, facts_of, round_trip_s
from ds4bench.server.measure import Meter
from ds4bench.server.plan import ServerPlan
from ds4bench.server.tokens import Counter
from ds4bench.sweep.checks import row_key
from ds4bench.sweep.files import write_stdout
from ds4bench.sweep.opened import Outputs, check_outputs, open_journal
from ds4bench.sweep.progress import ProgressScreen
from ds4bench.sweep.run import PUBLISH_EVERY_S
from ds4bench.sweep.stop import SweepSignals
from ds4bench.sweep.timed import ROOT
from engine.errors import BackendError
from engine.tooling import exits
from engine.tooling.openai.client import key_notice
from engine.tooling.openai.refusals import Trouble
from engine.tooling.openai.wire import Stopped
from engine.tooling.results.environment import command_line, environment, sources_sha256
from engine.tooling.results.journal import Journal
from engine.tooling.results.redact import plain_text, recordable


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """A sweep of a server as the command line asked for it, beyond the plan itself."""

    plan: ServerPlan
    outputs: Outputs
    resume: bool = False
    force: bool = False
    retry_failed: bool = False
    dry_run: bool = False
    allow_network_fs: bool = False
    record_paths: bool = False


def execute(request: ServerRequest) -> int:
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
    check_outputs(request.outputs, request.resume or request.force or request.dry_run)
    plan = request.plan
    if request.dry_run:
        print(dry_run_text(plan))
        return exits.OK
    with SweepSignals() as signals, contextlib.ExitStack() as stack:
        screen = ProgressScreen(plan.n_rows, 0)
        stack.callback(screen.close)
        notice = key_notice(plan.server)
        if notice:
            screen.note(f"warning: {notice}")
        users = max(plan.users)
        server = Server(plan.server, plan.sweep.sampling, users, lambda: signals.now, screen.note)
        stack.callback(server.close)
        try:
            said = facts_of(server)
            journal = stack.enter_context(
                open_journal(
                    request.outputs,
                    plan,
                    fingerprint(plan, said),
                    resume=request.resume,
                    force=request.force,
                    allow_network_fs=request.allow_network_fs,
                    record_paths=request.record_paths,
                )
            )
            sweep = _ServerSweep(request, server, said, journal, screen, signals)
            return sweep.run()
        except Stopped:
            return signals.exit_code or exits.INTERRUPTED


def dry_run_text(plan: ServerPlan) -> str:
    """The plan in words; the server is not asked."""
    sweep, server = plan.sweep, plan.server
    classes = f"\nclasses   {', '.join(sweep.classes)}" if sweep.prompt.classes else ""
    return (
        f"server    {server.place} ({server.api}), model {server.model or 'the first it lists'}\n"
        f"frontiers {len(sweep.frontiers)}: {', '.join(map(str, sweep.frontiers[:6]))}"
        f"{' ...' if len(sweep.frontiers) > 6 else ''}\n"
        f"users     {', '.join(map(str, plan.users))}; prefix cache {', '.join(plan.prefixes)}; "
        f"{sweep.repeats} run(s); {plan.n_rows} rows of {sweep.gen_tokens} tokens behind the "
        f"first{classes}"
    )


class _ServerSweep:
    """The part of a sweep that holds an open journal."""

    def __init__(
        self,
        request: ServerRequest,
        server: Server,
        said: dict[str, object],
        journal: Journal,
        screen: ProgressScreen,
        signals: SweepSignals,
    ) -> None:
        self.request = request
        self.server = server
        self.said = said
        self.journal = journal
        self.screen = screen
        self.signals = signals
        outputs = request.outputs
        self.to_stdout = outputs.csv is None and outputs.parquet is None
        self.rows = rows_of(journal.records, str(journal.path))
        self.fingerprint: str = journal.header["fingerprint_digest"]
        self.done = {row.key for row in self.rows if row.ok or not request.retry_failed}
        self.published_at = time.monotonic()

    def run(self) -> int:
        """Measure, publish, say what was found."""
        todo = [c for c in self.request.plan.cells() if self._key(c) not in self.done]
        self.screen.skip(self.request.plan.n_rows - len(todo))
        finished = not todo
        try:
            if self.to_stdout:
                self._show(records_csv.header(False))
            if todo:
                meter = self._start()
                self.signals.measuring = True
                finished = self._measure(meter, todo)
            else:
                self.screen.note("every row is there already")
        except Stopped:
            finished = False
        finally:
            if self.signals.number is not None and not finished:
                self.screen.note("stopped; finished rows are safe where they went to files")
            self._publish()
        self._plot()
        rows = stamped(self.rows, False)
        for row in rows:
            if not row.ok or row.message:
                where = f"{row.series} at {row.ctx_tokens} (run {row.run})"
                self.screen.note(f"warning: {where}: {row.status}, {row.message}")
        if self.signals.exit_code is not None:
            return self.signals.exit_code
        if not finished or any(not row.ok for row in rows):
            return exits.PARTIAL
        return exits.OK

    def _key(self, cell: Any) -> str:
        return row_key(self.fingerprint, cell)

    def _start(self) -> Meter:
        """Warm the server up, find out how it counts, and record both."""
        counter = Counter(self.server)
        meter = Meter(self.request.plan, self.server, counter)
        try:
            reply = meter.warm_up()
        except Trouble as trouble:
            raise BackendError(f"--base-url: {trouble.message}") from None
        record = {
            **environment(),
            "server": {
                **self.said,
                "rtt_s": round_trip_s(self.server),
                "counted_by": counter.how,
                "fields_changed": list(self.server.changed),
            },
            "limits": list(LIMITS),
            "command": command_line(),
        }
        record = recordable(record, paths=self.request.record_paths)
        self.journal.append({"kind": "start", "at": time.time(), "environment": record})
        ttft = reply.ttft_s
        self.journal.append({"kind": "warmup", "ttft_s": ttft, "tokens": reply.tokens})
        self.screen.note(f"prompt lengths by {counter.how}")
        return meter

    def _measure(self, meter: Meter, todo: list[Any]) -> bool:
        barren = 0
        for cell in todo:
            if self.signals.number is not None:
                return False
            row = meter.row(cell, self._key(cell), time.time())
            row = replace(row, message=plain_text(row.message))
            self.journal.append({"kind": "row", **row.to_record()})
            self.rows.append(row)
            barren = 0 if row.ok or row.status in DISTURBED else barren + 1
            if self.to_stdout:
                self._show(records_csv.line(row, False), row)
            else:
                self.screen.row(row)
            if time.monotonic() - self.published_at > PUBLISH_EVERY_S:
                self._publish()
            if barren >= GIVE_UP_AFTER:
                self.screen.note(f"{barren} rows in a row without a good one: giving up")
                return False
        return True

    def _show(self, text: str, row: SpeedRow | None = None) -> None:
        if row is not None:
            self.screen.row(row)
        write_stdout(text)

    def _publish(self) -> None:
        outputs = self.request.outputs
        publish_views(
            self.rows,
            environment_of(self.journal.header, self.journal.records),
            csv_path=outputs.csv,
            parquet_path=outputs.parquet,
            upstream_only=False,
        )
        self.published_at = time.monotonic()

    def _plot(self) -> None:
        plot = self.request.outputs.plot
        if plot is None or not any(row.ok for row in self.rows):
            return
        from ds4bench.report.draw import draw  # matplotlib: only where a plot was asked for

        draw((self.journal.path,), None, (plot,), dark=False, title="")


def fingerprint(plan: ServerPlan, said: dict[str, object]) -> dict[str, object]:
    """What rows of one journal must have in common; extent of the sweep is not part of it."""
    sweep, server = plan.sweep, plan.server
    package = ROOT / "ds4bench"
    ours = [*package.joinpath("server").rglob("*.py"), package / "panel/texts.py"]
    theirs = (ROOT / "engine/tooling/openai").rglob("*.py")
    return {
        "model": f"server:{said.get('model')}",
        "server": server.place,
        "api": server.api,
        "build": said.get("version") or said.get("build_info"),
        "extra_body": server.extra_body,
        "prompt": sweep.prompt.source,
        "repeat_prompt": sweep.prompt.repeat,
        "sampling": sweep.to_record()["sampling"],
        "gen_tokens": sweep.gen_tokens,
        "code": sources_sha256(sorted([*ours, *theirs]), ROOT),
    }
