"""Means over frontiers of samples that do not have them all."""

from __future__ import annotations

import numpy as np
import pytest

from ds4bench.compare import grid


def test_gaps_are_filled_as_two_way_least_squares_would():
    rng = np.random.default_rng(0)
    whole = rng.normal(0, 0.01, (6, 1)) + np.linspace(3, 1, 4) + rng.normal(0, 0.003, (6, 4))
    holes = whole.copy()
    holes[0, 3] = holes[2, 0] = holes[2, 1] = np.nan
    known = ~np.isnan(holes)
    rows, columns = np.nonzero(known)
    design = np.zeros((known.sum(), 10))
    design[np.arange(known.sum()), rows] = design[np.arange(known.sum()), 6 + columns] = 1
    fit = np.linalg.lstsq(design, holes[known], rcond=None)[0]
    filled = np.where(known, holes, fit[:6, None] + fit[6:])

    assert grid.means(holes) == pytest.approx(filled.mean(axis=1), abs=1e-10)
    assert grid.means(whole) == pytest.approx(whole.mean(axis=1), abs=1e-15)
    # A row without its slowest column must not look fast.
    assert (
        abs(grid.means(holes)[0] - whole[0].mean()) < 0.01 < np.nanmean(holes[0]) - whole[0].mean()
    )
