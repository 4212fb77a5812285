"""Steps of decoding that can be turned off, so that one run measures with and without them.

DS4_CUDA_VARIANT lists what to leave out: ``-branches``, or ``-branches,-early``. A record names
what was in use, and no switch changes a bit of any result.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import OptionError

# Name of each step, and what it is.
STEPS = {
    "branches": "a recorded pass is a graph in which independent launches run side by side",
    "early": "a launch begins before the one that it depends on has ended, and waits inside",
    "horizon": "attention and the indexer are launched for the rows that a pass can see",
}


def steps_from(environment: Mapping[str, str]) -> frozenset[str]:
    """Steps in use under DS4_CUDA_VARIANT.

    Raises
    ------
    OptionError
        It names something else.
    """
    text = environment.get("DS4_CUDA_VARIANT", "")
    words = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word[:1] != "-" or word[1:] not in STEPS]
    if unknown:
        known = ", ".join(f"-{name}" for name in STEPS)
        raise OptionError(f"DS4_CUDA_VARIANT: expected some of {known}, found {unknown[0][:40]!r}")
    return frozenset(STEPS) - {word[1:] for word in words}


def words_of(steps: frozenset[str]) -> str:
    """What a record says: 'all', or what was left out."""
    return ",".join(f"-{name}" for name in STEPS if name not in steps) or "all"
