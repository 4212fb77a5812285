"""Measures two set-ups in turns, pair by pair in ABBA order, until every curve is decided.

The loop knows when to go on and which pairs count; it does not know how a sweep is run (its caller
gives it a function for that), nor how to judge (`ds4bench.compare`). The journal ``pairs.jsonl``
holds one record per finished pair, so that a killed session resumes; a half-finished pair is
measured again, since its halves would no longer lie side by side.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ds4bench.ab import validity as ab_valid
from ds4bench.ab.looks import Looks
from ds4bench.ab.plan import AbPlan
from ds4bench.compare import grid, stats
from ds4bench.compare.judge import Comparison, compare_pairs
from ds4bench.compare.models import header_only_notes
from ds4bench.compare.samples import (
    ON_DEVICE,
    TREATMENT,
    Arm,
    Difference,
    load_arm,
    sample_of,
)
from ds4bench.compare.view import percent
from engine.errors import EngineError, OptionError
from engine.tooling.report.labels import clean_label
from engine.tooling.results.journal import Journal
from engine.tooling.results.publish import make_folder

SCHEMA = "ds4bench.ab"
SCHEMA_VERSION = 1

# Runs one sweep of side 'a' or 'b' into a folder; raises EngineError when it did not measure.
RunSide = Callable[[str, Path], None]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sweeps next to each other. `index` 0 is the discarded warm-up pair."""

    index: int
    order: str  # "AB" or "BA"
    a: Arm
    b: Arm
    reasons: tuple[str, ...] = ()


@dataclass
class AbSession:
    """The state of an A/B measurement over a folder.

    Parameters
    ----------
    plan : AbPlan
    folder : Path
        Holds pairs.jsonl and one folder per sweep.
    run_side : callable
    tolerances, allow
        As in `compare`.
    clock : callable
        Seconds, monotonic.
    quiet : callable
        Waits for an idle machine; returns None, or why it is not one.
    note : callable
        Hears one line per event.
    check : callable
        Sees the first sweep, once the machine is known, and may refuse to go on.
    """

    plan: AbPlan
    folder: Path
    run_side: RunSide
    tolerances: dict[str, float] = field(default_factory=dict)
    allow: Sequence[str] = ()
    clock: Callable[[], float] = time.monotonic
    quiet: Callable[[], str | None] = lambda: None
    note: Callable[[str], None] = lambda text: None
    check: Callable[[Arm], None] = lambda arm: None
    pairs: list[Pair] = field(default_factory=list)
    unfit: bool = False
    looks: Looks = field(init=False)

    def __post_init__(self) -> None:
        self.looks = Looks(self.plan.min_pairs, self.plan.max_pairs)

    @property
    def valid(self) -> list[Pair]:
        """Pairs that count; disturbed ones, too, where the user allows that."""
        return [pair for pair in self.pairs if pair.index > 0 and not self._drops(pair)]

    @property
    def dropped(self) -> list[Pair]:
        return [pair for pair in self.pairs if pair.index > 0 and self._drops(pair)]

    def _drops(self, pair: Pair) -> bool:
        return bool(pair.reasons) and "validity" not in self.allow

    def run(self, *, resume: bool = False) -> Comparison:
        """Measure until decided, out of pairs, out of time, or unfit.

        Raises
        ------
        OptionError
            If the folder holds a session and `resume` is false, or one of other commands.
        EngineError
            If a sweep did not measure.
        """
        path = self.folder / "pairs.jsonl"
        if path.exists() and not resume:
            raise OptionError(
                f"--out: expected a new folder, found {str(path)!r} (--resume goes on)"
            )
        make_folder(self.folder)
        identity = self.plan.identity()
        with Journal.open(path, SCHEMA, SCHEMA_VERSION, identity) as journal:
            for name, value in identity.items():
                if journal.header.get(name) != value:
                    raise OptionError(
                        f"--resume: expected {name} {journal.header.get(name)!r}, found {value!r}"
                    )
            self._reload(journal.records)
            start = self.clock()
            while not self._done(start, journal):
                self._measure(journal)
            # Where time ran out between two looks of the schedule, the end is one more.
            self._look(journal)
        return self.result()

    def _look(self, journal: Journal) -> None:
        """Note that the pairs so far are judged, so that a resumed session knows what it spent."""
        if self.valid and self.looks.take(len(self.valid)):
            journal.append({"kind": "look", "pairs": len(self.valid)})

    def result(self) -> Comparison:
        """The comparison of the valid pairs so far."""
        valid = self.valid
        if not valid:
            refused = self._refused()
            if refused is not None:
                return refused
            empty = Comparison("A", "B", True, "pair", 0, 0)
            if self.pairs:
                empty.unlike.append(Difference("validity", "undisturbed pairs", "none"))
            return empty
        result = replace(self._compared(valid), looks=len(self.looks.taken))
        if self.unfit:
            found = f"{len(self.dropped)} of {len(self.dropped) + len(valid)} dropped"
            result.unlike.append(Difference("validity", "at most 30 % of pairs dropped", found))
        result.notes.extend(self._notes())
        return result

    def _compared(self, pairs: Sequence[Pair]) -> Comparison:
        allow = (*self.allow, *TREATMENT, *ON_DEVICE)
        share = self.looks.share(len(pairs))
        sides = [p.a for p in pairs], [p.b for p in pairs]
        return compare_pairs(*sides, self.tolerances, allow, share)

    def _refused(self) -> Comparison | None:
        """What the warm-up pair shows already: other experiments, or other tokens."""
        if not self.pairs:
            return None
        warm = self._compared(self.pairs[:1])
        return warm if warm.unlike or warm.outputs else None

    def _notes(self) -> list[str]:
        orders = "".join(pair.order[0].lower() for pair in self.valid)
        notes = [
            f"{len(self.valid)} pairs in ABBA order (seed {self.plan.seed}, first letters "
            f"{orders}), {len(self.dropped)} dropped, 1 warm-up pair discarded"
        ]
        notes += [f"pair {p.index} dropped: {'; '.join(p.reasons)}" for p in self.dropped[:5]]
        kept = [p for p in self.valid if p.reasons]
        notes += [f"pair {p.index} counted though disturbed: {'; '.join(p.reasons)}" for p in kept]
        if self.looks.taken:
            notes.append(
                f"judged at {', '.join(map(str, self.looks.taken))} pairs; intervals and "
                "verdicts hold over all these looks"
            )
        notes += header_only_notes(*(arm.environment for p in self.valid for arm in (p.a, p.b)))
        notes.extend(self._drift_notes())
        return notes

    def _drift_notes(self) -> list[str]:
        notes = []
        for name in "ab":
            sweeps = [sample_of(getattr(pair, name).rows) for pair in self.valid]
            slots = [2 * p.index + (p.order[0].lower() != name) for p in self.valid]
            keys = grid.keys_of(sweeps, sweeps)
            for metric in ("prefill", "decode"):
                chosen = [k for k in keys if k.metric == metric and k.mode == "plain"]
                if not chosen:
                    continue
                levels = grid.table(sweeps, chosen)
                known = [slot for slot, gap in zip(slots, np.isnan(levels).all(axis=1)) if not gap]
                tau, p = stats.drift(list(grid.means(levels)), known)
                if p < 0.05:
                    way = "rises" if tau > 0 else "falls"
                    notes.append(
                        f"drift: {metric} of {name.upper()} {way} over the session "
                        f"(Kendall tau {tau:+.2f}, p {p:.3f}); pairs cancel it"
                    )
        return notes

    def _reload(self, records: Sequence[dict[str, Any]]) -> None:
        for record in records:
            if record.get("kind") == "look" and isinstance(record.get("pairs"), int):
                self.looks.take(record["pairs"])
            if record.get("kind") != "pair":
                continue
            try:
                a, b = (_arm(self.folder / record[name], name) for name in "ab")
                pair = Pair(record["index"], record["order"], a, b, tuple(record["reasons"]))
            except (KeyError, TypeError) as error:
                raise EngineError(
                    f"{self.folder}: expected a complete pair, found {error}"
                ) from error
            self.pairs.append(pair)
        if self.pairs:
            self.note(f"resumed: {len(self.valid)} valid pairs, {len(self.dropped)} dropped")

    def _done(self, start: float, journal: Journal) -> bool:
        if not self.pairs:
            return False  # not even warm
        n_valid, n_dropped = len(self.valid), len(self.dropped)
        if n_valid + n_dropped == 0 and self._refused() is not None:
            self.note("the warm-up pair differs in more than speed: nothing more is measured")
            return True
        if ab_valid.unfit(n_valid, n_dropped):
            self.unfit = True
            self.note("unfit machine: more than 30 % of pairs were disturbed")
            return True
        if n_valid >= self.plan.max_pairs:
            return True
        if self.plan.budget_s is not None and self.clock() - start >= self.plan.budget_s:
            self.note(f"time is up after {n_valid} pairs")
            return True
        if not self.looks.due(n_valid):
            return False
        self._look(journal)
        result = self.result()
        if result.unlike or result.outputs:
            return True  # more of the same will not make them comparable
        return stats.enough(
            [line.judgement for line in result.curves],
            self.plan.half_width,
            self.plan.min_pairs,
            self.plan.max_pairs,
        )

    def _measure(self, journal: Journal) -> None:
        index = self.pairs[-1].index + 1 if self.pairs else 0
        # Dropped pairs keep their slot, so the order of later ones is that of an undisturbed run.
        order = stats.abba(index + 1, self.plan.seed)[index]
        names = {name: f"pair-{index:04d}-{name}" for name in "ab"}
        for name in names.values():
            shutil.rmtree(self.folder / name, ignore_errors=True)
        started = time.time()
        busy = []
        for letter in order.lower():
            why = self.quiet()
            if why:
                busy.append(why)
            self.run_side(letter, self.folder / names[letter])
        arms = {name: _arm(self.folder / names[name], name) for name in "ab"}
        pair = Pair(index, order, arms["a"], arms["b"])
        known = [arm for p in self.valid for arm in (p.a, p.b)]
        reasons = busy + ab_valid.reasons([arms["a"], arms["b"]], known)
        if index:
            pair = replace(pair, reasons=tuple(reasons))
        journal.append(
            {
                "kind": "pair",
                "index": index,
                "order": order,
                **names,
                "reasons": list(pair.reasons),
                "started_at": started,
                "seconds": round(time.time() - started, 3),
            }
        )
        self.pairs.append(pair)
        self.note(self._line(pair))
        if index == 0:
            self.check(pair.a)

    def _line(self, pair: Pair) -> str:
        if pair.index == 0:
            return "warm-up pair measured and discarded"
        if pair.reasons:
            return f"pair {pair.index} {pair.order} dropped: {'; '.join(pair.reasons)}"
        parts = []
        for line in self.result().curves:
            half = line.judgement.interval.half_width
            spread = f" ± {100 * half:.2f}" if half < 0.5 else ""
            parts.append(
                f"{line.metric} {line.mode} {percent(line.judgement.estimate.mean)}{spread}"
            )
        return f"pair {pair.index} {pair.order}: {', '.join(parts)}"


def _arm(folder: Path, name: str) -> Arm:
    """One sweep, labelled by its side and, where known, the commit that ran."""
    arm = load_arm(folder, name.upper())
    code = arm.environment.get("code")
    commit = str(code.get("commit") or "")[:9] if isinstance(code, dict) else ""
    return replace(arm, label=f"{name.upper()} ({clean_label(commit)})") if commit else arm
