"""A measured panel in words: rates by kind of text and mode, what a step costs, when it pays.

What is computed for another acceptance stands under a heading of its own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ds4bench.panel.costs import Computed, StepCosts, replayed, step_costs, with_acceptance
from ds4bench.records.derived import mode_rank, percentile
from ds4bench.records.files import label_of, read_rows
from ds4bench.records.rows import SpeedRow
from engine.errors import EngineError, OptionError
from engine.files.regular import open_regular, read_regular
from engine.tooling.results.journal import is_journal

MOST_POSITIONS = 16
MOST_STEPS = 10_000_000
MOST_BYTES = 3 * MOST_STEPS


def parse_accept(text: str) -> tuple[float, ...]:
    """The shares of --accept.

    Raises
    ------
    OptionError
        If one is no probability.
    """
    found = []
    for item in text.split(","):
        try:
            share = float(item)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise OptionError(
                f"--accept: expected shares of 0 to 1 such as 0.9,0.8, found {item!r}"
            )
        found.append(share)
    if len(found) > MOST_POSITIONS:
        raise OptionError(
            f"--accept: expected at most {MOST_POSITIONS} positions, found {len(found)}"
        )
    return tuple(found)


def read_accepted(path: Path) -> tuple[int, ...]:
    """Accepted drafts of each step: whole numbers in lines, or the steps of a results file.

    Raises
    ------
    EngineError
        If it is neither, or holds no step.
    """
    head = b""
    if not path.is_dir():
        with open_regular(path, "--accept-replay", EngineError) as file:
            head = file.read(10) or b""
    if path.is_dir() or head[:4] == b"PAR1" or is_journal(head):
        steps = [
            tokens - 1
            for row in read_rows(path).good
            if row.drafted
            for tokens in row.step_tokens[:-1]
        ]
        if not steps:
            raise EngineError(f"{path}: expected rows of a mode that drafts, found none")
        return tuple(steps)
    found = []
    for number, word in enumerate(_words(path), 1):
        if not (len(word) < 9 and word.isdigit() and int(word) <= MOST_POSITIONS):
            shown = word[:20].decode("utf-8", "replace")
            raise EngineError(
                f"{path}: expected accepted drafts of 0 to {MOST_POSITIONS} per step, found "
                f"{shown!r} as number {number}"
            )
        found.append(int(word))
    if not found:
        raise EngineError(f"{path}: expected accepted drafts of each step, found none")
    return tuple(found)


def _words(path: Path) -> Iterator[bytes]:
    """Words of a file of at most MOST_STEPS of them, a few at a time."""
    data = read_regular(path, MOST_BYTES, "--accept-replay", EngineError)
    for number, found in enumerate(re.finditer(rb"\S+", data)):
        if number == MOST_STEPS:
            raise EngineError(f"{path}: expected at most {MOST_STEPS} steps, found more")
        yield found[0]


def computed(costs: Sequence[StepCosts], accept: str | None, replay: Path | None) -> list[Computed]:
    """What --accept and --accept-replay ask for, for every mode and context with costs."""
    found: list[Computed] = []
    if accept is not None:
        shares = parse_accept(accept)
        found += [with_acceptance(one, shares) for one in costs]
    if replay is not None:
        steps = read_accepted(replay)
        found += [replayed(one, steps, label_of(replay)) for one in costs]
    return found


def position_text(rows: Iterable[SpeedRow]) -> str:
    """Kept of drafted tokens by position, in per cent; '' where nobody says."""
    drafted: dict[int, int] = defaultdict(int)
    kept: dict[int, int] = defaultdict(int)
    for row in rows:
        for place, n in enumerate(row.drafted_by_depth):
            drafted[place] += n
        for place, n in enumerate(row.accepted_by_depth):
            kept[place] += n
    return " ".join(f"{100 * kept[p] / n:.0f}" for p, n in sorted(drafted.items()) if n)


def summary(rows: Sequence[SpeedRow], asked: Sequence[Computed] = ()) -> str:
    """The panel as text, at most 80 columns wide."""
    good = [row for row in rows if row.ok and row.gen_tps]
    groups: dict[tuple[int, str, str], list[SpeedRow]] = defaultdict(list)
    for row in good:
        groups[row.ctx_tokens, row.text_class or "text", row.mode].append(row)
    lines = [
        f"{'context':>8}  {'kind':<12} {'mode':<13} {'t/s':>8} {'times':>6} {'tok/step':>8}  "
        "kept by position, %"
    ]
    for (ctx, kind, mode), mine in sorted(
        groups.items(), key=lambda item: (item[0][0], item[0][1], mode_rank(item[0][2]))
    ):
        rate = _mid(row.gen_tps for row in mine)
        base = _mid(row.gen_tps for row in groups.get((ctx, kind, "plain"), ()))
        times = f"{rate / base:.2f}x" if rate and base and mode != "plain" else ""
        per_step = _mid(row.tokens_per_step for row in mine) if mode != "plain" else None
        lines.append(
            f"{ctx:>8}  {kind:<12} {mode:<13} {rate or 0:>8.1f} {times:>6} "
            f"{'' if per_step is None else f'{per_step:.2f}':>8}  {position_text(mine)}".rstrip()
        )
    costs = step_costs(good)
    if costs:
        lines += ["", "break-even, from measured steps"]
    for one in costs:
        parts = f"draft {1e3 * one.draft_s:.2f}, verify {1e3 * one.verify_s:.2f}"
        even = one.break_even
        pays = "never" if even is None else f"{even:.2f} tok/step"
        lines.append(
            f"{one.ctx_tokens:>8}  {one.mode:<13} step {1e3 * one.step_s:.2f} ms ({parts}) against "
            f"{1e3 * one.plain_s:.2f}: {pays}"
        )
    if asked:
        lines += ["", "COMPUTED from these steps, not measured"]
    for result in asked:
        cost = result.costs
        unseen = ", ".join(map(str, result.unseen))
        lines.append(
            f"{cost.ctx_tokens:>8}  {cost.mode:<13} {result.accept}: {result.tokens_per_step:.2f} "
            f"tok/step, {result.tps:.1f} t/s, {result.speedup:.2f}x"
            + (f" (no step of {unseen} measured)" if unseen else "")
        )
    return "\n".join(lines)


def _mid(values: Iterable[float | None]) -> float | None:
    return percentile([value for value in values if value is not None], 50)
