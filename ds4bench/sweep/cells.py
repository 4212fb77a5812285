"""Measures the cells of a plan one by one, with a worker that may die, into a journal.

Each row is durable before the next cell begins. How a row is timed is the worker's matter; how it
is shown or published is the caller's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from ds4bench.plan import GIVE_UP_AFTER, PARK_AFTER, Cell, SweepPlan
from ds4bench.records.files import rows_of
from ds4bench.records.rows import DISTURBED, SpeedRow
from ds4bench.sweep.attempts import (
    Attempt,
    Place,
    SharedPrefill,
    flagged,
    measured_row,
    place_of,
    row_of,
)
from ds4bench.sweep.checks import row_key
from ds4bench.sweep.disturbed import PASSING, trouble_of
from ds4bench.sweep.watchdog import FIRST_TIMEOUT_S, Watchdog
from ds4bench.telemetry.sampler import TelemetrySampler
from ds4bench.worker.child import Child, ChildDied
from ds4bench.worker.facts import FileStat
from ds4bench.worker.messages import (
    Begin,
    Copies,
    Decoded,
    DecodeWindow,
    Encode,
    ExtendTo,
    Inspect,
    Load,
    WarmedUp,
    WarmUp,
)
from engine.errors import DeviceLostError, EngineError, MemoryBudgetError, NonFiniteError
from engine.tooling.results.journal import Journal
from engine.tooling.results.redact import plain_text

# How often a row is measured when something disturbs it: once more.
TRIES = 2


class Runner:
    """One sweep over one journal.

    Parameters
    ----------
    plan : SweepPlan
    journal : Journal
    fingerprint : str
        Digest that row keys are made of.
    child : Child
    sampler : TelemetrySampler
    watched : sequence of FileStat
        Model files as they were when inspected.
    retry_failed : bool
        Measure failed cells again, unless they crashed three times.
    stop : callable
        True when the sweep should end after the row in progress.
    on_row : callable
        Called with each row after it is durable.
    note : callable
        One line of text for the user.
    """

    def __init__(
        self,
        plan: SweepPlan,
        journal: Journal,
        fingerprint: str,
        child: Child,
        sampler: TelemetrySampler,
        watched: Sequence[FileStat],
        *,
        retry_failed: bool = False,
        timeout_s: float | None = None,
        stop: Callable[[], bool] = lambda: False,
        on_row: Callable[[SpeedRow], None] = lambda row: None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.plan = plan
        self.journal = journal
        self.fingerprint = fingerprint
        self.child = child
        self.sampler = sampler
        self.watched = watched
        self.stop = stop
        self.on_row = on_row
        self.note = note
        self.watchdog = Watchdog(timeout_s)
        self.rows: list[SpeedRow] = []
        self._prefills: dict[Place, SharedPrefill] = {}
        self._disturbed: dict[str, int] = {}  # rows by key that something disturbed
        # Run, kind of text and tokens of the worker's timeline.
        self._position: tuple[int, str, int] | None = None
        self._ready = False
        self._learn_from(rows_of(journal.records, str(journal.path)), retry_failed)

    def _learn_from(self, found: list[SpeedRow], retry_failed: bool) -> None:
        """Learn from earlier rows what is done, parked, and already prefilled."""
        self.rows.extend(found)
        crashes: dict[str, int] = {}
        self.done: set[str] = set()
        for row in found:
            if row.status.startswith("crashed") or row.status == "gpu_fault":
                crashes[row.key] = crashes.get(row.key, 0) + 1
            if row.status in DISTURBED:
                self._disturbed[row.key] = self._disturbed.get(row.key, 0) + 1
            parked = crashes.get(row.key, 0) >= PARK_AFTER
            if self._once_more(row) or (not row.ok and retry_failed and not parked):
                self.done.discard(row.key)
            else:
                self.done.add(row.key)
            # Which part of a disturbed row was disturbed is not recorded.
            if row.prefill_s is not None and row.status not in DISTURBED:
                copies = None
                if row.prefill_h2d_bytes is not None and row.prefill_h2d_copies is not None:
                    copies = Copies(row.prefill_h2d_bytes, row.prefill_h2d_copies)
                known = SharedPrefill(row.prefill_s, row.kv_bytes, row.key, row.telemetry, copies)
                self._prefills.setdefault(place_of(row), known)
        self.parked = sorted(key for key, n in crashes.items() if n >= PARK_AFTER)

    def key(self, cell: Cell) -> str:
        return row_key(self.fingerprint, cell)

    def todo(self) -> list[Cell]:
        """Cells without a finished row, in order of measurement."""
        return [cell for cell in self.plan.cells() if self.key(cell) not in self.done]

    def run(self) -> bool:
        """Measure what is left.

        Returns
        -------
        bool
            True when nothing is left; False after `stop` or when the sweep gave up.

        Raises
        ------
        StoreError
            If the journal cannot be written; every earlier row is in it.
        Interrupted
            If the child was told to stop at once.
        """
        frontiers: dict[tuple[int, str, int], list[Cell]] = {}
        for cell in self.todo():
            frontiers.setdefault((cell.run, cell.text_class, cell.ctx_tokens), []).append(cell)
        barren = 0
        for cells in frontiers.values():
            good_before = self._n_measured()
            for cell in cells:
                if self.stop():
                    return False
                if self._model_changed():
                    text = "the model file is not the one inspected"
                    self._fail(Attempt(cell), "model_changed", text)
                    return False
                self._measure(cell)
            barren = 0 if self._n_measured() > good_before else barren + 1
            if barren >= GIVE_UP_AFTER:
                self.note(f"{barren} frontiers in a row without a good row: giving up")
                return False
        return True

    def prepare(self) -> dict[str, object]:
        """Start a worker, load the model and warm it up; its warm-up goes to the journal.

        A mode that kills the worker in the warm-up must cost its own rows only: the second try
        warms the prefill alone.

        Returns
        -------
        dict
            Facts of the loaded engine, JSON-ready.
        """
        try:
            facts = self._load()
            warm = self._warm_up(self.plan.modes)
        except ChildDied as death:
            self.note(f"warm-up: {death}; again without decoding")
            facts = self._load()
            warm = self._warm_up(())
        # Passes are recorded, and some weights first touched, while warming up.
        if warm.first_touch is not None:
            facts["first_touch"] = asdict(warm.first_touch)
        if warm.launches:
            facts["launches"] = warm.launches
        for number, one in enumerate(warm.rounds):
            self.journal.append({"kind": "warmup", "round": number, **asdict(one)})
        last = warm.rounds[-1]
        self.watchdog.observe("prefill", last.prefill_tokens, last.prefill_s)
        self._ready = True
        return facts

    def _load(self) -> dict[str, object]:
        limit = self.watchdog.fixed_s or FIRST_TIMEOUT_S
        self._position = None
        if self.child.pid is None:
            self.child.request(limit, Inspect(self.plan))
            self.child.request(limit, Encode())
        loaded = self.child.request(limit, Load())
        for text in loaded.engine.notices:
            self.note(text)
        notices = list(loaded.engine.notices)
        return {"load_s": loaded.load_s, **loaded.engine.facts, "notices": notices}

    def _warm_up(self, modes: tuple[str, ...]) -> WarmedUp:
        return self.child.request(self.watchdog.fixed_s or FIRST_TIMEOUT_S, WarmUp(modes))

    def _measure(self, cell: Cell, again: bool = False) -> None:
        """One cell to one row, whatever happens to the worker; `again` after a device's fault."""
        self.sampler.begin()
        known = self._prefills.get(place_of(cell))
        shared = known is not None and known.owner != self.key(cell)
        attempt = Attempt(cell, shared, started_at=time.time())
        try:
            if not self._ready:
                self.prepare()
            start = cell.ctx_tokens - (0 if known else cell.prefill_tokens)
            attempt = replace(attempt, resumed=self._reach(cell, start))
            if known is None:
                known = self._prefills[place_of(cell)] = self._prefill(cell)
                row = flagged(self._row(attempt, "ok"), known.trouble)
                if row.status in PASSING and self._disturbed.get(row.key, 0) < TRIES - 1:
                    # Nothing that follows could mend it, so no mode is decoded behind it.
                    self._append(replace(row, telemetry=known.telemetry))
                    del self._prefills[place_of(cell)]
                    if not self.stop():
                        self._measure(cell, again)
                    return
            decoded = self._decode(cell)
        except ChildDied as death:
            self._forget_worker()
            self._fail(attempt, death.status, str(death))
        except DeviceLostError as error:
            # Its context is gone for that process; another one gets a fresh one.
            self.child.kill()
            self._forget_worker()
            if not again:
                self.note(f"{error}; once more in a new process")
                self._measure(cell, again=True)
                return
            self._fail(attempt, "gpu_fault", str(error))
        except NonFiniteError as error:
            self._position = None
            self._fail(attempt, "nonfinite", str(error))
        except EngineError as error:
            if not self._ready:
                raise  # the model does not even load: no other cell would fare better
            self._position = None
            status = "oom" if isinstance(error, MemoryBudgetError) else "error"
            self._fail(attempt, status, str(error))
        else:
            state = self.sampler.row(known.telemetry)
            row = measured_row(self._row(attempt, "ok"), decoded, state)
            found = trouble_of(state, decoded.compiled, row.step_s)
            row = flagged(row, known.trouble or found)
            self._append(row)
            # Asked to stop, the sweep leaves the second try to --resume.
            if self._once_more(row) and not self.stop():
                self._measure(cell, again)

    def _reach(self, cell: Cell, tokens: int) -> bool:
        """Bring the worker's timeline to `tokens` tokens of a cell's text, outside the clock.

        Returns
        -------
        bool
            Whether anything had to be evaluated again.
        """
        wanted = (cell.run, cell.text_class)
        *held, at = self._position or (0, "", 0)
        if tuple(held) != wanted or at > tokens:
            self._position = None
            self.child.request(self.watchdog.fixed_s or FIRST_TIMEOUT_S, Begin(cell.text_class))
            self._position, at = (*wanted, 0), 0
        if at == tokens:
            return False
        self._position = None
        limit = self.watchdog.limit("prefill", tokens - at)
        self.child.request(limit, ExtendTo(tokens))
        self._position = (*wanted, tokens)
        return True

    def _prefill(self, cell: Cell) -> SharedPrefill:
        limit = self.watchdog.limit("prefill", cell.prefill_tokens)
        self._position = None
        self.sampler.enter("prefill")
        reply = self.child.request(limit, ExtendTo(cell.ctx_tokens))
        self.sampler.leave()
        self._position = (cell.run, cell.text_class, cell.ctx_tokens)
        self.watchdog.observe("prefill", reply.prefill_tokens, reply.prefill_s)
        state = self.sampler.row()
        return SharedPrefill(
            reply.prefill_s,
            reply.kv_bytes,
            self.key(cell),
            state,
            reply.copies,
            trouble_of(state, reply.compiled),
        )

    def _decode(self, cell: Cell) -> Decoded:
        limit = self.watchdog.limit(cell.mode, self.plan.gen_tokens)
        self.sampler.enter("gen")
        reply = self.child.request(limit, DecodeWindow(cell.mode))
        self.sampler.leave()
        self.watchdog.observe(cell.mode, reply.gen_tokens, reply.gen_s)
        return reply

    def _row(self, attempt: Attempt, status: str) -> SpeedRow:
        """What a row says before its decode window."""
        known = self._prefills.get(place_of(attempt.cell))
        return row_of(attempt, self.key(attempt.cell), status, known)

    def _fail(self, attempt: Attempt, status: str, message: str) -> None:
        row = self._row(attempt, status)
        message = plain_text(message)
        self._append(replace(row, message=message[:500], telemetry=self.sampler.row()))

    def _append(self, row: SpeedRow) -> None:
        """Make a row durable, then count and show it."""
        self.journal.append({"kind": "row", **row.to_record()})
        self.rows.append(row)
        if row.status in DISTURBED:
            self._disturbed[row.key] = self._disturbed.get(row.key, 0) + 1
        if self._once_more(row):
            where = f"{row.series} at {row.ctx_tokens} (run {row.run})"
            self.note(f"{where}: {row.status}, {row.message}; to be measured once more")
            return
        self.done.add(row.key)
        self.on_row(row)

    def _once_more(self, row: SpeedRow) -> bool:
        """Whether what disturbed a row is over, so that it is worth another try."""
        return row.status in PASSING and self._disturbed.get(row.key, 0) < TRIES

    def _n_measured(self) -> int:
        return sum(row.ok or row.status in DISTURBED for row in self.rows)

    def _forget_worker(self) -> None:
        """The process is gone: nothing is loaded, and no timeline is anywhere."""
        self._ready = False
        self._position = None

    def _model_changed(self) -> bool:
        for known in self.watched:
            try:
                info = os.stat(known.path)
            except OSError:
                return True
            now = FileStat(known.path, info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
            if now != known:
                return True
        return False
