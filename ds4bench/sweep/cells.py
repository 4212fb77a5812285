"""Walks the cells of a plan with a worker that may die, and makes each row durable at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ds4bench.plan import GIVE_UP_AFTER, PARK_AFTER, Cell, SweepPlan, row_key
from ds4bench.records.rows import LISTS, SpeedRow, Telemetry
from ds4bench.telemetry.sampler import Sampler
from ds4bench.worker.child import Child, ChildDied
from engine.errors import DeviceLostError, EngineError, MemoryBudgetError, NonFiniteError
from engine.tooling.results.journal import Journal, Record

FIRST_TIMEOUT_S = 3600.0  # before anything is known about the machine's speed
LEAST_TIMEOUT_S = 60.0
TIMEOUT_FACTOR = 10.0


@dataclass(slots=True)
class Prefill:
    """A measured prefill that several modes share."""

    prefill_s: float
    kv_bytes: int | None
    telemetry: Telemetry = field(default_factory=Telemetry)
    h2d_bytes: int | None = None
    h2d_copies: int | None = None


class Watchdog:
    """How long a request may take: ten times what the machine's pace so far predicts."""

    def __init__(self, fixed_s: float | None = None) -> None:
        self.fixed_s = fixed_s
        self._pace: dict[str, float] = {}

    def limit(self, what: str, n_tokens: int) -> float:
        """Seconds for `n_tokens` tokens of 'prefill' or of a mode's decode."""
        if self.fixed_s is not None:
            return self.fixed_s
        pace = self._pace.get(what)
        if pace is None:
            return FIRST_TIMEOUT_S
        return max(LEAST_TIMEOUT_S, TIMEOUT_FACTOR * pace * n_tokens)

    def observe(self, what: str, n_tokens: int, seconds: float) -> None:
        """Learn from a finished request; the slowest pace counts."""
        if n_tokens:
            self._pace[what] = max(self._pace.get(what, 0.0), seconds / n_tokens)


class Runner:
    """One sweep over one journal.

    Parameters
    ----------
    plan : SweepPlan
    settings : dict
        What the worker's `inspect` gets; sent again to each new process.
    journal : Journal
    fingerprint : str
        Digest that row keys are made of.
    child : Child
    sampler : Sampler
    watched : sequence of [path, dev, ino, size, mtime_ns]
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
        settings: dict[str, Any],
        journal: Journal,
        fingerprint: str,
        child: Child,
        sampler: Sampler,
        watched: Sequence[Sequence[Any]],
        *,
        retry_failed: bool = False,
        timeout_s: float | None = None,
        stop: Callable[[], bool] = lambda: False,
        on_row: Callable[[SpeedRow], None] = lambda row: None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.plan = plan
        self.settings = settings
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
        self._prefills: dict[tuple[int, int], Prefill] = {}
        self._position: tuple[int, int] | None = None  # (run, tokens) of the worker's timeline
        self._ready = False
        self._took_over(journal.records, retry_failed)

    def _took_over(self, records: list[Record], retry_failed: bool) -> None:
        """Learn from earlier rows what is done, parked, and already prefilled."""
        found = [SpeedRow.from_record(r) for r in records if r.get("kind") == "row"]
        self.rows.extend(found)
        crashes: dict[str, int] = {}
        self.done: set[str] = set()
        for row in found:
            if row.status.startswith("crashed") or row.status == "gpu_fault":
                crashes[row.key] = crashes.get(row.key, 0) + 1
            if row.ok or not retry_failed or crashes.get(row.key, 0) >= PARK_AFTER:
                self.done.add(row.key)
            elif row.key in self.done:
                self.done.discard(row.key)
            if row.prefill_s is not None:
                known = Prefill(
                    row.prefill_s,
                    row.kv_bytes,
                    row.telemetry,
                    row.prefill_h2d_bytes,
                    row.prefill_h2d_copies,
                )
                self._prefills.setdefault((row.run, row.ctx_tokens), known)
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
        frontiers: dict[tuple[int, int], list[Cell]] = {}
        for cell in self.todo():
            frontiers.setdefault((cell.run, cell.ctx_tokens), []).append(cell)
        barren = 0
        for cells in frontiers.values():
            good_before = sum(row.ok for row in self.rows)
            for cell in cells:
                if self.stop():
                    return False
                if self._model_changed():
                    self._fail(cell, "model_changed", "the model file is not the one inspected")
                    return False
                self._measure(cell)
            barren = 0 if sum(row.ok for row in self.rows) > good_before else barren + 1
            if barren >= GIVE_UP_AFTER:
                self.note(f"{barren} frontiers in a row without a good row: giving up")
                return False
        return True

    def prepare(self) -> dict[str, Any]:
        """Start a worker, load the model and warm it up; its warm-up goes to the journal.

        A mode that kills the worker in the warm-up must cost its own rows only: the second try
        warms the prefill alone.

        Returns
        -------
        dict
            Facts of the loaded engine.
        """
        try:
            facts = self._load()
            warm = self._warm_up(list(self.plan.modes))
        except ChildDied as death:
            self.note(f"warm-up: {death}; again without decoding")
            facts = self._load()
            warm = self._warm_up([])
        # Passes are recorded, and some weights first touched, while warming up.
        for name in ("first_touch", "launches"):
            if warm.get(name):
                facts[name] = warm[name]
        rounds = warm["rounds"]
        for number, one in enumerate(rounds):
            self.journal.append({"kind": "warmup", "round": number, **one})
        last = rounds[-1]
        self.watchdog.observe("prefill", last["prefill_tokens"], last["prefill_s"])
        self._ready = True
        return facts

    def _load(self) -> dict[str, Any]:
        limit = self.watchdog.fixed_s or FIRST_TIMEOUT_S
        self._position = None
        if self.child.pid is None:
            self.child.request(limit, "inspect", settings=self.settings)
            self.child.request(limit, "encode")
        loaded = self.child.request(limit, "load")
        for text in loaded["facts"].get("notices", ()):
            self.note(text)
        return {"load_s": loaded["load_s"], **loaded["facts"]}

    def _warm_up(self, modes: list[str]) -> dict[str, Any]:
        limit = self.watchdog.fixed_s or FIRST_TIMEOUT_S
        return self.child.request(limit, "warmup", modes=modes)

    def _measure(self, cell: Cell, again: bool = False) -> None:
        """One cell to one row, whatever happens to the worker; `again` after a device's fault."""
        started_at = time.time()
        resumed = False
        self.sampler.begin()
        place = (cell.run, cell.ctx_tokens)
        shared = place in self._prefills
        try:
            if not self._ready:
                self.prepare()
            if shared:
                resumed = self._reach(*place)
            else:
                resumed = self._reach(cell.run, cell.ctx_tokens - cell.prefill_tokens)
                self._prefills[place] = self._prefill(cell)
            decoded = self._decode(cell)
        except ChildDied as death:
            self._lost()
            self._fail(cell, death.status, str(death), resumed, shared, started_at)
        except DeviceLostError as error:
            # Its context is gone for that process; another one gets a fresh one.
            self.child.kill()
            self._lost()
            if not again:
                self.note(f"{error}; once more in a new process")
                self._measure(cell, again=True)
                return
            self._fail(cell, "gpu_fault", str(error), resumed, shared, started_at)
        except NonFiniteError as error:
            self._restart_timeline()
            self._fail(cell, "nonfinite", str(error), resumed, shared, started_at)
        except EngineError as error:
            if not self._ready:
                raise  # the model does not even load: no other cell would fare better
            self._restart_timeline()
            status = "oom" if isinstance(error, MemoryBudgetError) else "error"
            self._fail(cell, status, str(error), resumed, shared, started_at)
        else:
            known = self._prefills[place]
            self._append(
                self._row(cell, "ok", resumed, shared, started_at),
                **decoded,
                telemetry=self.sampler.row(known.telemetry),
            )

    def _reach(self, run: int, tokens: int) -> bool:
        """Bring the worker's timeline to `tokens` tokens of a run, outside the clock.

        Returns
        -------
        bool
            Whether anything had to be evaluated again.
        """
        if self._position == (run, tokens):
            return False
        at_run, at = self._position or (0, 0)
        if at_run != run or at > tokens:
            self._position = None
            self.child.request(self.watchdog.fixed_s or FIRST_TIMEOUT_S, "begin")
            self._position, at = (run, 0), 0
        if at == tokens:
            return False
        self._position = None
        limit = self.watchdog.limit("prefill", tokens - at)
        self.child.request(limit, "prefill", frontier=tokens)
        self._position = (run, tokens)
        return True

    def _prefill(self, cell: Cell) -> Prefill:
        limit = self.watchdog.limit("prefill", cell.prefill_tokens)
        self._position = None
        self.sampler.enter("prefill")
        reply = self.child.request(limit, "prefill", frontier=cell.ctx_tokens)
        self.sampler.leave()
        self._position = (cell.run, cell.ctx_tokens)
        self.watchdog.observe("prefill", reply["prefill_tokens"], reply["prefill_s"])
        return Prefill(
            reply["prefill_s"],
            reply["kv_bytes"],
            self.sampler.row(),
            reply.get("prefill_h2d_bytes"),
            reply.get("prefill_h2d_copies"),
        )

    def _decode(self, cell: Cell) -> dict[str, Any]:
        limit = self.watchdog.limit(cell.mode, self.plan.gen_tokens)
        self.sampler.enter("gen")
        reply = self.child.request(limit, "decode", mode=cell.mode)
        self.sampler.leave()
        self.watchdog.observe(cell.mode, reply["gen_tokens"], reply["gen_s"])
        reply.update({name: tuple(reply[name]) for name in LISTS})
        reply["steps"] = len(reply["step_s"])
        if cell.mode == "plain":
            for name in ("drafted", "accepted", "draft_s", "verify_s", "rollback_s"):
                reply[name] = None
        return reply

    def _row(
        self, cell: Cell, status: str, resumed: bool, shared: bool, started_at: float | None
    ) -> dict[str, Any]:
        known = self._prefills.get((cell.run, cell.ctx_tokens))
        return {
            **asdict(cell),
            "status": status,
            "prefill_s": known.prefill_s if known else None,
            "kv_bytes": known.kv_bytes if known else None,
            "prefill_h2d_bytes": known.h2d_bytes if known else None,
            "prefill_h2d_copies": known.h2d_copies if known else None,
            "prefill_shared": shared and known is not None,
            "resumed": resumed,
            "started_at": started_at,
            "key": self.key(cell),
        }

    def _fail(
        self,
        cell: Cell,
        status: str,
        message: str,
        resumed: bool = False,
        shared: bool = False,
        started_at: float | None = None,
    ) -> None:
        row = self._row(cell, status, resumed, shared, started_at)
        self._append(row, message=message[:500], telemetry=self.sampler.row())

    def _append(self, fields: dict[str, Any], **more: Any) -> None:
        row = SpeedRow(**fields, **more)
        self.journal.append({"kind": "row", **row.to_record()})
        self.rows.append(row)
        self.done.add(row.key)
        self.on_row(row)

    def _lost(self) -> None:
        self._ready = False
        self._position = None

    def _restart_timeline(self) -> None:
        self._position = None

    def _model_changed(self) -> bool:
        for path, *known in self.watched:
            try:
                info = os.stat(path)
            except OSError:
                return True
            if [info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns] != list(known):
                return True
        return False
