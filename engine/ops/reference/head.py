"""Greedy choice of a token."""

from __future__ import annotations

import numpy as np

from engine.errors import NonFiniteError


def argmax(logits):
    """Index of the first maximum.

    Parameters
    ----------
    logits : array of shape (n_vocab,)

    Returns
    -------
    int

    Raises
    ------
    NonFiniteError
        If any logit is NaN or infinite.
    """
    finite = np.isfinite(logits)
    if not finite.all():
        first = int(np.argmin(finite))
        raise NonFiniteError(f"logits: expected finite values, found {logits[first]} at {first}")
    return int(np.argmax(logits))
