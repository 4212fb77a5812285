"""Wilson's score bounds of a share: what both programs' tables and the model check show.

Counts and shares come in, bounds go out; what was counted is not known here.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

Bounds: TypeAlias = "tuple[np.ndarray, np.ndarray]"


def wilson_bounds(p: np.ndarray, n: np.ndarray, z: np.ndarray | float) -> Bounds:
    """Wilson's score bounds (1927).

    Parameters
    ----------
    p, n : numpy.ndarray
        Shares, 0 to 1, and what they are shares of; any shapes that broadcast.
    z : numpy.ndarray or float
        Two-sided quantile of the normal distribution.

    Returns
    -------
    tuple of numpy.ndarray
        Lower and upper bounds, within 0 to 1.
    """
    middle = p + z * z / (2 * n)
    reach = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At 0 and at n the bound is exact; rounding must not push it beyond.
    low = np.where(p <= 0, 0.0, (middle - reach) / scale)
    high = np.where(p >= 1, 1.0, (middle + reach) / scale)
    return low, high
