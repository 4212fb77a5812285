"""Samples against frontiers as a table with gaps: a cell that one sweep lacks costs that cell only.

A table holds logarithms of rates, or differences of them: a row for each sweep (or pair of
sweeps), a column for each frontier, NaN where nothing was measured. Nothing here judges.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ds4bench.compare.samples import Key, Sample

_ROUNDS = 1000
_STILL = 1e-13  # a change of log rates that is rounding


def keys_of(base: Sequence[Sample], head: Sequence[Sample]) -> list[Key]:
    """Keys that occur on both sides, in table order."""
    sides = [{key for sample in side for key in sample} for side in (base, head)]
    return sorted(sides[0] & sides[1], key=lambda key: key.order)


def table(samples: Sequence[Sample], keys: Sequence[Key]) -> np.ndarray:
    """Log rates, float64 of shape (samples, keys)."""
    rows = [[sample.get(key, np.nan) for key in keys] for sample in samples]
    return np.array(rows, dtype=np.float64).reshape(len(samples), len(keys))


def broad(values: np.ndarray) -> np.ndarray:
    """Which columns (frontiers) at least half of the rows have, bool of shape (columns,)."""
    known = ~np.isnan(values)
    rows = known.any(axis=1).sum()
    return np.asarray(known.sum(axis=0) >= max(1.0, rows / 2))


def means(values: np.ndarray) -> np.ndarray:
    """Mean over frontiers of each row that has any, as if each had all of them.

    A row without its slowest frontier would look faster than it was. So gaps are filled with what
    fits best if a row adds the same to every frontier (two-way least squares); a table
    without gaps is averaged as it stands.

    Parameters
    ----------
    values : float64 array of shape (rows, columns)
        Every column needs a value.

    Returns
    -------
    float64 array of shape (rows that have a value,)
    """
    kept = values[~np.isnan(values).all(axis=1)]
    gaps = np.isnan(kept)
    if not gaps.any():
        return np.asarray(kept.mean(axis=1))
    filled = np.where(gaps, np.nanmean(kept, axis=0), kept)
    for _ in range(_ROUNDS):
        fit = filled.mean(axis=1, keepdims=True) + filled.mean(axis=0) - filled.mean()
        step = float(np.abs(np.where(gaps, fit - filled, 0.0)).max())
        filled = np.where(gaps, fit, filled)
        if step < _STILL:
            break
    return np.asarray(filled.mean(axis=1))


def gaps_note(
    base: Sequence[Sample], head: Sequence[Sample], labels: tuple[str, str], shown: int = 4
) -> str:
    """Which cells not every sample has, and how many of either side have them; '' if all do.

    Modes that only one side measured are another sweep, not a gap.
    """
    sides = [{key for sample in side for key in sample} for side in (base, head)]
    modes = {key.mode for key in sides[0]} & {key.mode for key in sides[1]}
    found: dict[tuple[str, str, int, int], list[str]] = defaultdict(list)
    for key in sorted(sides[0] | sides[1], key=lambda key: key.order):
        ours, theirs = (sum(key in sample for sample in side) for side in (base, head))
        if key.mode in modes and (ours, theirs) != (len(base), len(head)):
            found[key.metric, key.mode, ours, theirs].append(str(key.ctx_tokens))
    if not found:
        return ""
    phrases = [
        f"{metric} {mode} at {', '.join(contexts)} "
        f"({labels[0]} {ours} of {len(base)}, {labels[1]} {theirs} of {len(head)})"
        for (metric, mode, ours, theirs), contexts in found.items()
    ]
    more = f" and {len(phrases) - shown} more" if len(phrases) > shown else ""
    return f"missing in some samples: {'; '.join(phrases[:shown])}{more}"
