"""Prompts of an exact number of tokens, as the server counts them.

A text is cut at the character at which the server counts as many tokens as are wanted. In front
of it stands a salt: eight letters that no earlier request began with, so that a prefix cache has
nothing of it. The letters change and their number of tokens does not, with every tokenizer known
here; where one counts otherwise, the cut is found again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Probes of one search; a search that needs more is one in a tokenizer that jumps.
MOST_PROBES = 40
# Characters around the best cut that are tried one by one.
NEAR = 24


def new_salt() -> str:
    """A line that is another one each time."""
    return " ".join(secrets.choice(LETTERS) for _ in range(8)) + "\n\n"


def cut_for(count: Callable[[str], int], head: str, text: str, want: int, guess: int = 0) -> int:
    """How many characters of a text make a prompt of exactly `want` tokens behind a head.

    Parameters
    ----------
    count : callable
        Tokens of a whole prompt, as the server counts them.
    head : str
        Salt in front of the text.
    text : str
        At least as long as is needed.
    want : int
    guess : int
        Characters that nearly fit; 0 for none.

    Raises
    ------
    ValueError
        If the text is too short, or no cut gives this number.
    """
    low, n_low = 0, count(head)
    high, n_high = len(text), -1
    if n_low > want:
        raise ValueError(f"expected room for {n_low} tokens in front of the text, found {want}")
    at = guess or min(len(text), 4 * want)
    for _ in range(MOST_PROBES):
        at = min(max(at, low + 1), high if n_high < 0 else high - 1)
        found = count(head + text[:at])
        if found == want:
            return at
        if found < want:
            if at == len(text):
                raise ValueError(f"expected a text of {want} tokens, found {found}")
            low, n_low = at, found
        else:
            high, n_high = at, found
        if high - low <= 1:
            break
        if n_high < 0:
            # Nothing that is too long is known yet: a little further than the rate says.
            rate = (low + 1) / max(n_low, 1)
            at = low + max(1, round((want - n_low) * rate))
        else:
            share = (want - n_low) / max(n_high - n_low, 1)
            at = low + max(1, round((high - low) * share))
    # A cut may count more than a longer one: what stands behind joins tokens.
    for at in range(high, min(high + NEAR, len(text)) + 1):
        if count(head + text[:at]) == want:
            return at
    raise ValueError(f"expected a cut of exactly {want} tokens, found {n_low} and then {n_high}")
