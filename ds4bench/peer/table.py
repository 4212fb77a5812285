"""The comparison as lines of a table: medians over repeats, with what encloses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ds4bench.peer.measure import PeerRow, coverage, median_of


def header(ours: str, theirs: str) -> str:
    return (
        f"{'context':>8} {'phase':<8}{ours + ' t/s':>24}{theirs + ' t/s':>24}"
        f"{'ratio':>20}{'of memory':>20}{'top-1':>9}"
    )


def legend(repeats: int) -> str:
    """What the brackets are."""
    if repeats == 1:
        return "one repeat: no interval"
    return (
        f"median [least - greatest] of {repeats} repeats; the brackets hold the true median with "
        f"{100 * coverage(repeats):.0f} %"
    )


def _cell(values: Sequence[float], say: Callable[[float], str]) -> str:
    m = median_of(values)
    if len(values) == 1:
        return say(m.estimate)
    return f"{say(m.estimate)} [{say(m.low)} - {say(m.high)}]"


def lines(rows: Sequence[PeerRow], ctx: int) -> list[str]:
    """Two lines for a context, prefill and decode; ratios are taken within each repeat.

    Parameters
    ----------
    rows : sequence of PeerRow
        Ours and the peer's, alternately, as `compare` makes them; of other contexts, too.
    """
    here = [row for row in rows if row.ctx_tokens == ctx]
    ours, theirs = here[0::2], here[1::2]
    found = []
    for phase in ("prefill", "decode"):
        a = [getattr(row, f"{phase}_tps") for row in ours]
        b = [getattr(row, f"{phase}_tps") for row in theirs]
        line = (
            f"{ctx:>8} {phase:<8}{_cell(a, _rate):>24}{_cell(b, _rate):>24}"
            f"{_cell([x / y for x, y in zip(a, b, strict=True)], _times):>20}"
        )
        if phase == "decode":
            shares = [s for s in (row.bandwidth_share for row in ours) if s is not None]
            equal = f"{ours[-1].top1_equal}/{ours[-1].gen_tokens}"
            line += f"{_cell(shares, _percent) if shares else '':>20}{equal:>9}"
        found.append(line)
    return found


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _times(value: float) -> str:
    return f"{value:.2f}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f}%"
