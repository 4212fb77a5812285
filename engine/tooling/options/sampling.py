"""Options of sampling: names and ranges are the same in every program, defaults are upstream's.

The three C programs that these commands follow sample differently when nothing is said, so each
program states its defaults when it calls for the group: ds4 writes text (temperature 1), ds4-bench
times the likeliest tokens, and ds4-eval grades them. MIN_P is the one that they share with ds4's
sampler.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.tooling.options.group import OptionGroup
from engine.tooling.options.types import Number, Whole

MAX_SEED = 2**64 - 1


@dataclass(frozen=True, slots=True)
class SamplingChoice:
    """How tokens are drawn; see `engine.sample.Sampler`.

    Attributes
    ----------
    temp : float
        0 takes the likeliest token.
    top_k : int
        0 is off.
    top_p, min_p : float
    seed : int or None
        None where nobody named one and the program draws it.
    """

    temp: float
    top_k: int
    top_p: float
    min_p: float
    seed: int | None


def sampling_options(
    *,
    temp: float,
    top_p: float,
    min_p: float,
    seed: int | None = None,
    seed_from: int = 0,
    seed_help: str = "Seed of sampling; the same seed repeats a text.",
    seed_text: str | None = None,
) -> OptionGroup[SamplingChoice]:
    """The group with a program's defaults.

    Parameters
    ----------
    temp, top_p, min_p, seed
        Defaults.
    seed_from : int
        Least seed; ds4-eval's files use 0 for "none".
    seed_help : str
        What else hangs on the seed.
    seed_text : str, optional
        What happens without a seed.
    """
    return OptionGroup(
        "Sampling",
        (
            (
                ("--temp",),
                {
                    "type": Number(0, 100),
                    "default": temp,
                    "help": "Temperature; 0 takes the likeliest token.",
                },
            ),
            (
                ("--top-k",),
                {
                    "type": Whole(0, 1024),
                    "default": 0,
                    "help": "Draw among this many likeliest tokens; 0 is off.",
                },
            ),
            (
                ("--top-p",),
                {
                    "type": Number(0, 1),
                    "default": top_p,
                    "help": "Draw among the likeliest tokens that together have this share of "
                    "the probability; 1 is off.",
                },
            ),
            (
                ("--min-p",),
                {
                    "type": Number(0, 1),
                    "default": min_p,
                    "help": "Leave out tokens less likely than this share of the likeliest one; "
                    "0 is off.",
                },
            ),
            (
                ("--seed",),
                {
                    "type": Whole(seed_from, MAX_SEED),
                    "default": seed,
                    "help": seed_help,
                    "default_text": seed_text,
                },
            ),
        ),
        _parse,
    )


def _parse(values: dict[str, Any]) -> SamplingChoice:
    return SamplingChoice(**values)
