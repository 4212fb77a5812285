"""Durations and moments as people and other programs write them."""

from __future__ import annotations

import re


def span(seconds: float) -> str:
    """Seconds as people say them: 40 s, 12 min, 3 h 20 min, 2 d 5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"


def iso(stamp: str) -> str:
    """UTC time in the form that readers of logs parse: with an offset."""
    match = re.match(r"(\d{4})-?(\d\d)-?(\d\d)T(\d\d):?(\d\d):?(\d\d)?Z?", stamp)
    if not match:
        return "1970-01-01T00:00:00+00:00"
    y, mo, d, h, mi, s = match.groups()
    return f"{y}-{mo}-{d}T{h}:{mi}:{s or '00'}+00:00"
