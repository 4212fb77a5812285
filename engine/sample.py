"""One row of logits to one token: argmax, truncation, and a draw that only its place decides."""

from __future__ import annotations

import math

import numpy as np

from engine.errors import NonFiniteError, OptionError

MAX_TOP_K = 1024
MAX_TEMP = 100.0
_U64 = 1 << 64
_FIRST_SORT = 1024


class Sampler:
    """Truncated sampling with random numbers keyed by (seed, stream, position, lane).

    The truncation follows ds4's sampler: relative weights `exp((l - max) / temp)` first; then
    the `top_k` largest; those whose weight reaches `min_p`; and the smallest prefix, in
    descending order, whose share of the *whole* softmax reaches `top_p`. All three keep a
    prefix of one order (ties: lower id first), so the smallest one decides.

    Parameters
    ----------
    temp : float
        0 takes the first maximum and uses no random numbers; at most 100.
    top_k : int
        0 is off; at most 1024.
    top_p : float
        In [0, 1]; 0 and 1 are off.
    min_p : float
        In [0, 1]; weight relative to the most likely token; applied after the temperature.
    seed, stream : int
        64 bits each; streams of one seed are independent (one per question, say).

    Raises
    ------
    OptionError
        If a value is out of its range.
    """

    def __init__(
        self,
        temp: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
        stream: int = 0,
    ) -> None:
        _check("temp", temp, 0.0, MAX_TEMP)
        _check("top_k", top_k, 0, MAX_TOP_K)
        _check("top_p", top_p, 0.0, 1.0)
        _check("min_p", min_p, 0.0, 1.0)
        _check("seed", seed, 0, _U64 - 1)
        _check("stream", stream, 0, _U64 - 1)
        self.temp = float(temp)
        self.top_k = int(top_k)
        self.top_p = float(top_p) or 1.0
        self.min_p = float(min_p)
        self.seed = int(seed)
        self.stream = int(stream)

    def sample(self, logits: np.ndarray, position: int) -> int:
        """Token drawn for a place in the text.

        Parameters
        ----------
        logits : float32 array of shape (n_vocab,)
        position : int
            Index that the new token gets; the same position always draws the same number,
            so neither order nor resumption changes a text.

        Raises
        ------
        NonFiniteError
            If a logit is NaN or infinite.
        """
        if self.temp == 0.0:
            check_finite(logits)
            return int(np.argmax(logits))
        ids, probs = self.distribution(logits)
        return pick(ids, probs, self.uniform(position))

    def distribution(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens that can be drawn, and their probabilities.

        Returns
        -------
        ids : int32 array of shape (n_kept,)
            Ascending.
        probs : float64 array of shape (n_kept,)
            Sum 1. At temperature 0 one token with probability 1.

        Raises
        ------
        NonFiniteError
            If a logit is NaN or infinite.
        """
        check_finite(logits)
        if self.temp == 0.0:
            return np.array([np.argmax(logits)], np.int32), np.ones(1)
        wide = logits.astype(np.float64)
        with np.errstate(over="ignore", under="ignore"):
            weights = np.exp((wide - wide.max()) / self.temp)
        ids = self._kept(weights)
        probs = weights[ids]
        # cumsum adds in one order; np.sum's order depends on the processor.
        return ids, probs / np.cumsum(probs)[-1]

    def _kept(self, weights: np.ndarray) -> np.ndarray:
        """Ids that survive truncation, ascending."""
        if self.top_p == 1.0 and self.top_k == 0:
            return np.flatnonzero(weights >= self.min_p).astype(np.int32)
        total = float(np.cumsum(weights)[-1])
        n_sort = self.top_k or _FIRST_SORT
        while True:
            order = _largest(weights, n_sort)
            mass = np.cumsum(weights[order])
            # Stop once the prefix that top_p needs lies inside the sorted part.
            if self.top_k or len(order) == len(weights) or mass[-1] >= self.top_p * total:
                break
            n_sort *= 8
        n_keep = len(order)
        if self.top_k:
            n_keep = min(n_keep, self.top_k)
        if self.top_p < 1.0:
            reached = int(np.searchsorted(mass, self.top_p * total, side="left")) + 1
            n_keep = min(n_keep, reached)
        order = order[:n_keep]
        return np.sort(order[weights[order] >= self.min_p]).astype(np.int32)

    def uniform(self, position: int, lane: int = 0) -> float:
        """Random number in [0, 1) of a position; 53 bits of Philox4x64-10.

        Parameters
        ----------
        position : int
        lane : int
            Independent numbers for one position: 0 draws tokens; others are free for
            acceptance tests and drafts.
        """
        return float(self.uniforms(position, 1, lane)[0])

    def uniforms(self, position: int, n: int, lane: int = 0) -> np.ndarray:
        """Random numbers of n positions from `position` on, float64 array of shape (n,)."""
        bits = np.random.Philox(
            key=np.array([self.seed, self.stream], np.uint64),
            counter=np.array([position, 0, 0, lane], np.uint64),
        )
        # Each counter value yields four words; the first one is used.
        words = bits.random_raw(4 * n)[::4]
        return (words >> np.uint64(11)) * 2.0**-53


def pick(ids: np.ndarray, probs: np.ndarray, u: float) -> int:
    """Token at the point u, in [0, 1), of the cumulative distribution."""
    mass = np.cumsum(probs)
    index = int(np.searchsorted(mass, u * mass[-1], side="right"))
    # Rounding can put u * total on the total itself.
    return int(ids[min(index, len(ids) - 1)])


def check_finite(logits: np.ndarray) -> None:
    """Raise NonFiniteError unless every logit is finite."""
    finite = np.isfinite(logits)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise NonFiniteError(
            f"logits: expected finite values, found {len(bad)} that are not, "
            f"the first ({logits[bad[0]]}) at token {bad[0]}"
        )


def _largest(weights: np.ndarray, n: int) -> np.ndarray:
    """Ids of at least the n largest weights, descending, equal ones by id."""
    if n >= len(weights):
        return np.argsort(-weights, kind="stable")
    edge = np.partition(weights, len(weights) - n)[len(weights) - n]
    # All that equal the n-th are taken too: partition breaks ties in no order of ours.
    ids = np.flatnonzero(weights >= edge)
    return ids[np.argsort(-weights[ids], kind="stable")]


def _check(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not math.isfinite(value) or not low <= value <= high:
        raise OptionError(f"{name}: expected {low:g} to {high:g}, found {value!r}")
