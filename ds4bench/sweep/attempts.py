"""One try at a row: what is known before and behind it, and the row that comes of it.

Plain data in, a `SpeedRow` out; what is measured when, and how often, is the runner's matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ds4bench.plan import Cell
from ds4bench.records.rows import SpeedRow, Telemetry
from ds4bench.sweep.disturbed import Trouble
from ds4bench.worker.messages import Copies, Decoded

# What a prefill is a measurement of: (run, kind of text, context behind it, tokens that it added).
Place = tuple[int, str, int, int]


@dataclass(frozen=True, slots=True)
class SharedPrefill:
    """A measured prefill that several modes share; `owner` is the key of its first row."""

    prefill_s: float
    kv_bytes: int | None
    owner: str
    telemetry: Telemetry = field(default_factory=Telemetry)
    copies: Copies | None = None
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a cell: what its row says whether it succeeds or not."""

    cell: Cell
    shared: bool = False  # another row has measured the prefill
    resumed: bool = False  # the context was rebuilt outside the clock
    started_at: float | None = None  # seconds since 1970


def place_of(cell: Cell | SpeedRow) -> Place:
    """What the prefill in front of a row is a measurement of."""
    return cell.run, cell.text_class, cell.ctx_tokens, cell.prefill_tokens


def row_of(attempt: Attempt, key: str, status: str, known: SharedPrefill | None) -> SpeedRow:
    """What a row says before its decode window: the cell and the prefill in front of it."""
    cell = attempt.cell
    row = SpeedRow(
        run=cell.run,
        ctx_tokens=cell.ctx_tokens,
        prefill_tokens=cell.prefill_tokens,
        mode=cell.mode,
        text_class=cell.text_class,
        status=status,
        resumed=attempt.resumed,
        started_at=attempt.started_at,
        key=key,
    )
    if known is None:
        return row
    copies = known.copies
    return replace(
        row,
        prefill_s=known.prefill_s,
        kv_bytes=known.kv_bytes,
        prefill_h2d_bytes=None if copies is None else copies.h2d_bytes,
        prefill_h2d_copies=None if copies is None else copies.h2d_copies,
        prefill_shared=attempt.shared,
    )


def measured_row(row: SpeedRow, window: Decoded, state: Telemetry) -> SpeedRow:
    """The row with its decode window and the machine's state around it."""
    copies = window.copies
    speculative = row.mode != "plain"
    return replace(
        row,
        gen_tokens=window.gen_tokens,
        gen_s=window.gen_s,
        steps=len(window.step_s),
        drafted=window.drafted if speculative else None,
        accepted=window.accepted if speculative else None,
        drafted_by_depth=window.drafted_by_depth,
        accepted_by_depth=window.accepted_by_depth,
        draft_s=window.draft_s if speculative else None,
        verify_s=window.verify_s if speculative else None,
        rollback_s=window.rollback_s if speculative else None,
        draft_context_s=window.draft_context_s,
        draft_block_s=window.draft_block_s,
        draft_head_s=window.draft_head_s,
        reliability=window.reliability,
        step_s=window.step_s,
        step_tokens=window.step_tokens,
        token_hash=window.token_hash,
        bytes_per_step=window.bytes_per_step,
        gen_h2d_bytes=None if copies is None else copies.h2d_bytes,
        gen_h2d_copies=None if copies is None else copies.h2d_copies,
        telemetry=state,
    )


def flagged(row: SpeedRow, trouble: Trouble | None) -> SpeedRow:
    """The row as it is, or with the status of what disturbed it."""
    return row if trouble is None else replace(row, status=trouble.status, message=trouble.message)
