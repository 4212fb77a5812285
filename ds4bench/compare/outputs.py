"""What two arms emitted, apart from speed: the tokens, how many a step gave, and cells that broke.

A kernel that breaks the model but is faster must not pass as faster. Nothing here knows of rates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ds4bench.compare.samples import Arm
from ds4bench.records.rows import SpeedRow, mode_rank

# Rows that something outside the engine spoiled: no fault of head's.
DISTURBED = ("compiled", "stalled", "suspended", "throttled", "model_changed")
_HASH_CHARS = 16  # what a CSV keeps of a hash, so that it compares with its journal
_SHOWN = 4
Place = tuple[str, int, int]  # mode, context, run (0: every run repeats the others)


@dataclass(frozen=True, slots=True)
class TokensLine:
    """Tokens per step of a speculative mode at one frontier, compared exactly."""

    mode: str
    ctx_tokens: int
    base: float
    head: float
    same: bool
    deterministic: bool


@dataclass(frozen=True, slots=True)
class Outputs:
    """Emitted tokens of two arms.

    Attributes
    ----------
    compared : int
        Cells whose tokens both arms recorded.
    differing : list of str
        Those in which head emitted what base never did.
    notes : list of str
        Cells of which nothing can be said, and why.
    """

    compared: int = 0
    differing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare_outputs(base: Arm, head: Arm) -> Outputs:
    """Compare the hashes of emitted tokens, cell by cell.

    A base that does not repeat its own tokens is no measure: such cells are named, not judged.
    """
    greedy = all(_greedy(arm) for arm in (base, head))
    ours, theirs = (_hashes(arm.rows, greedy) for arm in (base, head))
    counts = [_counts(arm.rows) for arm in (base, head)]
    shared = [p for p in ours if p in theirs and counts[0][p[:2]] == counts[1][p[:2]]]
    shared.sort(key=lambda p: (mode_rank(p[0]), p))
    cells: dict[tuple[str, int], bool] = {}
    unsteady: list[tuple[str, int]] = []
    for place in shared:
        if len(ours[place]) > 1:
            unsteady.append(place[:2])
        else:
            cells[place[:2]] = cells.get(place[:2], False) or ours[place] != theirs[place]
    found = Outputs(len(cells), [f"{mode} at {ctx}" for (mode, ctx), bad in cells.items() if bad])
    if unsteady:
        named = ", ".join(f"{mode} at {ctx}" for mode, ctx in dict.fromkeys(unsteady))
        found.notes.append(f"{base.label} does not repeat its own tokens: {named}")
    if not cells and not unsteady:
        found.notes.append("emitted tokens are not recorded on both sides, so not compared")
    return found


def summed_up(outputs: Outputs) -> str:
    """One phrase that names the first cells whose tokens differ."""
    named = ", ".join(outputs.differing[:_SHOWN])
    more = len(outputs.differing) - _SHOWN
    rest = f" and {more} more" if more > 0 else ""
    return f"other tokens in {len(outputs.differing)} of {outputs.compared} cells: {named}{rest}"


def _greedy(arm: Arm) -> bool:
    prints: Any = arm.environment.get("fingerprint")
    sampling = prints.get("sampling") if isinstance(prints, dict) else None
    return not (isinstance(sampling, dict) and sampling.get("temp"))


def _hashes(rows: Iterable[SpeedRow], greedy: bool) -> dict[Place, set[str]]:
    found: dict[Place, set[str]] = defaultdict(set)
    for row in rows:
        if row.ok and row.token_hash:
            found[row.series, row.ctx_tokens, 0 if greedy else row.run].add(
                row.token_hash[:_HASH_CHARS]
            )
    return found


def _counts(rows: Iterable[SpeedRow]) -> dict[tuple[str, int], set[int]]:
    found: dict[tuple[str, int], set[int]] = defaultdict(set)
    for row in rows:
        if row.ok:
            found[row.series, row.ctx_tokens].add(row.gen_tokens)
    return found


def tokens_per_step(rows: Iterable[SpeedRow]) -> dict[tuple[str, int], set[tuple[int, int]]]:
    """(committed tokens, steps) that occurred, by mode and frontier, of speculative rows."""
    found: dict[tuple[str, int], set[tuple[int, int]]] = defaultdict(set)
    for row in rows:
        if row.ok and row.steps and row.steps != row.gen_tokens:
            found[row.series, row.ctx_tokens].add((row.gen_tokens, row.steps))
    return found


def token_lines(base: Arm, head: Arm) -> list[TokensLine]:
    """Tokens per step of every speculative cell that both arms have."""
    ours, theirs = tokens_per_step(base.rows), tokens_per_step(head.rows)
    lines = []
    for mode, ctx in sorted(set(ours) & set(theirs), key=lambda c: (mode_rank(c[0]), c)):
        a, b = ours[mode, ctx], theirs[mode, ctx]
        before, after = (sum(g for g, _ in s) / sum(n for _, n in s) for s in (a, b))
        lines.append(TokensLine(mode, ctx, before, after, a == b, len(a) == 1 and len(b) == 1))
    return lines


def token_notes(lines: Sequence[TokensLine]) -> list[str]:
    """A sentence on cells in which tokens per step differ, if any do."""
    changed = [line for line in lines if not line.same]
    if not changed:
        return []
    named = ", ".join(
        f"{c.mode} at {c.ctx_tokens} ({c.base:.3f} -> {c.head:.3f})" for c in changed[:_SHOWN]
    )
    return [
        f"tokens per step differ in {len(changed)} of {len(lines)} cells: {named}; "
        "decode compares other work there, steps per second does not"
    ]


def broken_cells(base: Arm, head: Arm) -> list[str]:
    """What head can no longer do: cells that fail, or emit other tokens than plain."""
    # A cell that fails now and then on both sides says nothing of head.
    good = {(r.series, r.ctx_tokens) for r in base.rows if r.ok}
    good -= {(r.series, r.ctx_tokens) for r in base.rows if not r.ok}
    lossy = {(r.series, r.ctx_tokens) for r in base.rows if r.lossless is False}
    out = []
    for row in head.rows:
        cell = (row.series, row.ctx_tokens)
        if not row.ok and row.status not in DISTURBED and cell in good:
            out.append(f"{row.series} at {row.ctx_tokens}: {row.status} in head, ok in base")
        elif row.ok and row.lossless is False and cell not in lossy:
            out.append(f"{row.series} at {row.ctx_tokens}: tokens differ from plain's in head")
    return list(dict.fromkeys(out))
