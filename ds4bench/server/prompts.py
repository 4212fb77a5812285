"""Prompts of an exact number of tokens, as the server counts them.

A text is cut at the character at which the server counts as many tokens as are wanted. In front
of it stands a salt: letters in an order that no earlier request began with, so that a prefix cache
has nothing of it. Only their order changes, so that every salt has as many tokens as any other with
every tokenizer known here; where one counts otherwise, another salt is taken.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

LETTERS = "abcdefghijklmnop"
# Probes of one search; a search that needs more is one in a tokenizer that jumps.
MOST_PROBES = 40
# Characters around the best cut that are tried one by one.
NEAR = 24


def new_salt() -> str:
    """A line that is another one each time, of 16! = 2e13."""
    return f"Mark {' '.join(secrets.SystemRandom().sample(LETTERS, len(LETTERS)))}.\n\n"


def cut_for(
    count: Callable[[str], int], head: str, text: str, want: int, base: int = 0, guess: int = 0
) -> int:
    """How many characters of a text make a prompt of exactly `want` tokens behind a head.

    Parameters
    ----------
    count : callable
        Tokens of a whole prompt, as the server counts them.
    head : str
        What stands in front of the text.
    text : str
        At least as long as is needed.
    want, base : int
        Tokens of the prompt, and of the head as far as they are known.
    guess : int
        Characters that nearly fit; 0 for none.

    Returns
    -------
    int
        Where a word may end: the character in front of the cut is no white space, as far as there
        is such a cut, so that a longer prompt begins with the very tokens of this one.

    Raises
    ------
    ValueError
        If the text is too short, or no cut gives this number.
    """
    low, n_low = 0, base
    high, n_high = len(text), -1
    at = guess or 4 * (want - base)
    best = 0
    for _ in range(MOST_PROBES):
        at = min(max(at, low + 1), high if n_high < 0 else high - 1)
        found = count(head + text[:at])
        if found == want:
            best = at
            break
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
            rate = (low + 1) / max(n_low - base, 1)
            at = low + max(1, round((want - n_low) * rate))
        else:
            share = (want - n_low) / max(n_high - n_low, 1)
            at = low + max(1, round((high - low) * share))
    # A longer cut may count fewer tokens: what stands behind joins them.
    near = [best, best - 1, best + 1] if best else []
    near += range(best or high, min((best or high) + NEAR, len(text)) + 1)
    for at in dict.fromkeys(near):
        if at > 0 and not text[at - 1].isspace() and count(head + text[:at]) == want:
            return at
    if best:
        return best
    raise ValueError(f"expected a cut of exactly {want} tokens, found {n_low} and then {n_high}")
