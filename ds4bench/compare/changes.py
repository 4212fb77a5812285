"""Finds change points of a series by energy distance (E-divisive), with a permutation test.

Method: Matteson and James, "A nonparametric approach for multiple change point analysis of
multivariate data", arXiv 1306.4933. A slow creep of one per cent a week passes every gate between
neighbours; a series shows it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

WINDOW = 50  # latest points that are looked at
P_VALUE = 0.001
MIN_EFFECT = 0.01  # of the median
MIN_SIZE = 3  # points on each side
# At p 0.001 four chance hits are allowed, so one more does not decide. Of a short series the best
# split itself comes up three times in 4999 shuffles, so chance would decide; it gets more.
PERMUTATIONS = 4999
SHORT, SHORT_PERMUTATIONS = 24, 19999
OUTLIER = 4.0  # robust standard deviations of noise beyond the neighbours
_BATCH = 250  # permutations at once: 250 x 50 x 50 float64 are 5 MB


@dataclass(frozen=True, slots=True)
class Change:
    """A jump of the level.

    Attributes
    ----------
    index : int
        First point of the new level.
    before, after : float
        Medians of the neighbouring segments.
    p_value : float
        Of the permutation test.
    """

    index: int
    before: float
    after: float
    p_value: float

    @property
    def effect(self) -> float:
        """Relative change, negative for a loss."""
        return self.after / self.before - 1


def split_scores(distance: np.ndarray, min_size: int = MIN_SIZE) -> np.ndarray:
    """Energy statistic of every split.

    Parameters
    ----------
    distance : float64 array of shape (..., n, n)
        Absolute differences of all points.

    Returns
    -------
    float64 array of shape (..., n + 1)
        Score of the split in front of each index; -inf where a side would be too short.
    """
    n = distance.shape[-1]
    corner = np.cumsum(np.cumsum(distance, axis=-2), axis=-1)
    k = np.arange(1, n)
    within_left = np.diagonal(corner, axis1=-2, axis2=-1)[..., :-1]
    to_left = corner[..., -1, :-1]  # every point to the first k
    total = corner[..., -1:, -1]
    between = to_left - within_left
    within_right = total - within_left - 2 * between
    m = n - k
    with np.errstate(divide="ignore", invalid="ignore"):
        energy = 2 * between / (k * m) - within_left / (k * (k - 1)) - within_right / (m * (m - 1))
    scores = np.full((*distance.shape[:-2], n + 1), -np.inf)
    usable = (k >= min_size) & (m >= min_size)
    scores[..., 1:n] = np.where(usable, k * m / n * energy, -np.inf)
    return scores


def changes(
    values: Sequence[float],
    *,
    window: int = WINDOW,
    p_value: float = P_VALUE,
    min_effect: float = MIN_EFFECT,
    min_size: int = MIN_SIZE,
    seed: int = 0,
) -> list[Change]:
    """Change points of the latest `window` values, in order; indices count from the whole series.

    Parameters
    ----------
    values : sequence of float
        Positive rates, oldest first. Logarithms are compared.
    seed : int
        Of the permutations: the same series gives the same answer.

    Raises
    ------
    ValueError
        If a value is not positive and finite.
    """
    raw = np.asarray(values, dtype=np.float64)
    if not (np.isfinite(raw) & (raw > 0)).all():
        raise ValueError("changes: expected positive finite values, found others")
    first = max(0, raw.size - window)
    x = without_outliers(np.log(raw[first:]))
    rng = np.random.default_rng(seed)
    found: dict[int, float] = {}
    _divide(x, 0, x.size, p_value, min_size, rng, found)
    return _merged(raw[first:], found, first, min_effect)


def without_outliers(x: np.ndarray) -> np.ndarray:
    """The series with lone outliers moved in between the middle two of their four neighbours.

    One commit that was measured beside a backup must not hide a step, nor be one. A point counts
    as an outlier where it lies outside its four nearest neighbours by several times the noise,
    which is told from first differences, so that steps and creep do not count as noise. A step has
    neighbours on its own level, and three points of it are a level.

    Parameters
    ----------
    x : float64 array of shape (n,)
        Logarithms.
    """
    if x.size < 6:
        return x
    differences = np.abs(np.diff(x))
    # 1.4826 makes a median a standard deviation; a difference has the noise of two points.
    noise = 1.4826 * float(np.median(differences)) / math.sqrt(2)
    out: np.ndarray = x.copy()
    for i in range(x.size):
        start = min(max(i - 2, 0), x.size - 5)
        near = np.sort(np.delete(x[start : start + 5], i - start))
        margin = max(OUTLIER * noise, MIN_EFFECT)
        if x[i] < near[0] - margin or x[i] > near[-1] + margin:
            # The middle two, so that one neighbour beyond a step does not draw it there.
            out[i] = min(max(x[i], near[1]), near[2])
    return out


def _divide(
    x: np.ndarray,
    start: int,
    stop: int,
    p_value: float,
    min_size: int,
    rng: np.random.Generator,
    found: dict[int, float],
) -> None:
    part = x[start:stop]
    if part.size < 2 * min_size or np.ptp(part) == 0:
        return
    distance = np.abs(part[:, None] - part[None, :])
    scores = split_scores(distance, min_size)
    best = int(np.argmax(scores))
    p = _p_value(distance, float(scores[best]), p_value, min_size, rng)
    if p > p_value:
        return
    found[start + best] = p
    _divide(x, start, start + best, p_value, min_size, rng, found)
    _divide(x, start + best, stop, p_value, min_size, rng, found)


def _p_value(
    distance: np.ndarray, score: float, limit: float, min_size: int, rng: np.random.Generator
) -> float:
    """Share of shuffled series that split as well; once beyond `limit`, some value beyond it."""
    n = distance.shape[0]
    as_high = 0
    shuffles = SHORT_PERMUTATIONS if n <= SHORT else PERMUTATIONS
    for done in range(0, shuffles, _BATCH):
        count = min(_BATCH, shuffles - done)
        order = rng.permuted(np.tile(np.arange(n), (count, 1)), axis=1)
        shuffled = distance[order[:, :, None], order[:, None, :]]
        highest = split_scores(shuffled, min_size).max(axis=1)
        # A tie is as extreme; rounding must not make it less.
        as_high += int((highest >= score * (1 - 1e-12)).sum())
        p = (as_high + 1) / (shuffles + 1)
        if p > limit:
            break
    return p


def _merged(
    raw: np.ndarray, found: dict[int, float], first: int, min_effect: float
) -> list[Change]:
    """Drop the smallest change while it is below the least effect; its segments become one."""
    points = sorted(found)
    while points:
        edges = [0, *points, raw.size]
        medians = [float(np.median(raw[a:b])) for a, b in pairwise(edges)]
        effects = [abs(b / a - 1) for a, b in pairwise(medians)]
        least = int(np.argmin(effects))
        if effects[least] >= min_effect:
            return [
                Change(first + p, a, b, found[p]) for p, a, b in zip(points, medians, medians[1:])
            ]
        del points[least]
    return []
