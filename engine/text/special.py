"""DeepSeek V4's control tokens by their text, and finding them in strings in linear time."""

from __future__ import annotations

import re
from collections.abc import Iterable

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
DSML = "｜DSML｜"

KNOWN = frozenset((BOS, EOS, USER, ASSISTANT, THINK_OPEN, THINK_CLOSE, DSML))

_BAR = "｜"


def looks_special(text: str) -> bool:
    """Whether a token's text alone marks it as a control token (files without token types)."""
    return text in KNOWN or (
        len(text) > 4 and text.startswith(f"<{_BAR}") and text.endswith(f"{_BAR}>")
    )


def finder(strings: Iterable[str]) -> re.Pattern[str] | None:
    """Pattern that finds the leftmost, then longest, of many strings; None for no strings.

    The alternatives are laid out as a prefix tree: a position is given up after its first
    character that no string continues with, so the cost does not grow with their number
    (DeepSeek's vocabulary has more than 800 control tokens that begin alike).
    """
    root: dict = {}
    for string in strings:
        if not string:
            raise ValueError("control token: expected text, found an empty string")
        node = root
        for char in string:
            node = node.setdefault(char, {})
        node[""] = {}
    return re.compile(_pattern(root)) if root else None


def _pattern(root: dict) -> str:
    """Regular expression of a prefix tree, built from the leaves up without recursion."""
    order = [root]
    for node in order:
        order.extend(child for char, child in node.items() if char)
    done: dict[int, str] = {}
    for node in reversed(order):
        branches = [
            re.escape(char) + done[id(child)] for char, child in sorted(node.items()) if char
        ]
        if not branches:
            done[id(node)] = ""
        elif len(branches) == 1 and "" not in node:
            done[id(node)] = branches[0]
        else:
            # A greedy optional group prefers the longer string over the one that ends here.
            done[id(node)] = f"(?:{'|'.join(branches)})" + ("?" if "" in node else "")
    return done[id(root)]
