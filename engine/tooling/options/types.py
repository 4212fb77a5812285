"""Numbers and choices on a command line: what is refused is said as `expected X, found Y`."""

from __future__ import annotations

import math
from typing import Any

import click

# From here on a bound is a limit of storage, which nobody needs to be told of in a help text.
_UNTOLD = 2**31 - 1


class Whole(click.ParamType):
    """A whole number between two bounds, both of them allowed.

    Parameters
    ----------
    low, high : int
    """

    name = "n"

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    @property
    def hint(self) -> str:
        """The range for a help text; '' where it would tell nothing."""
        if self.high >= _UNTOLD:
            return f"at least {self.low}" if self.low > 1 else ""
        return f"{self.low} to {self.high}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            self.fail(f"expected a whole number, found {value!r}", param, ctx)
        if not self.low <= number <= self.high:
            self.fail(f"expected {self.low} to {self.high}, found {number}", param, ctx)
        return number


class Wholes(Whole):
    """Different whole numbers between two bounds, separated by commas; one alone is a list too."""

    name = "n,..."

    def convert(  # type: ignore[override]
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        numbers = tuple(
            super(Wholes, self).convert(part.strip(), param, ctx) for part in str(value).split(",")
        )
        if len(set(numbers)) != len(numbers):
            self.fail(f"expected different numbers, found {value!r}", param, ctx)
        return numbers


class Number(click.ParamType):
    """A finite number between two bounds; NaN and infinity are no numbers here.

    Parameters
    ----------
    low : float
    high : float, optional
    above : bool
        Whether `low` itself is refused.
    """

    name = "x"

    def __init__(self, low: float, high: float | None = None, *, above: bool = False) -> None:
        self.low, self.high, self.above = low, high, above

    @property
    def hint(self) -> str:
        """The range for a help text; '' where it would tell nothing."""
        if self.high is None:
            return f"at least {self.low:g}" if self.low > 0 else ""
        return (
            f"{f'above {self.low:g}, at most' if self.above else f'{self.low:g} to'} {self.high:g}"
        )

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"expected a number, found {value!r}", param, ctx)
        low = number > self.low if self.above else number >= self.low
        if not low or (self.high is not None and number > self.high):
            span = self.hint or f"at least {self.low:g}"
            self.fail(f"expected {span}, found {number:g}", param, ctx)
        return number


class OneOf(click.Choice):
    """One of a few words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value not in self.choices:
            words = [str(choice) for choice in self.choices]
            said = f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
            self.fail(f"expected {said}, found {value!r}", param, ctx)
        return value
