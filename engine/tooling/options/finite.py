"""A number on the command line: a range that has no place for NaN and infinity."""

from __future__ import annotations

import math
from typing import Any

import click


class Finite(click.FloatRange):
    """`click.FloatRange` lets NaN through, which is below no bound and above none."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"expected a number, found {value!r}", param, ctx)
        return number
