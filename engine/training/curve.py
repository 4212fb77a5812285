"""Draws a training log: ``python -m engine.training.curve log.jsonl curve.svg``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from engine.errors import EngineError, OptionError

_LINES = ("trunk_completion", "trunk_recall", "trunk_prose", "trunk_prompt", "draft_completion")


def read(path: Path) -> list[dict[str, Any]]:
    """Lines of a log.

    Raises
    ------
    OptionError
        If there are none, or one is no JSON object.
    """
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise OptionError(f"log: expected JSON lines in {str(path)!r}, found {error}") from None
    if not lines or not all(isinstance(line, dict) for line in lines):
        raise OptionError(f"log: expected JSON objects in {str(path)!r}, found others")
    return lines


def draw(lines: list[dict[str, Any]], out: Path) -> None:
    """Cross-entropy per kind of text over tokens seen, and where the rows became longer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name in _LINES:
        points = [(x["tokens"] / 1e6, x[name]) for x in lines if x.get(name) is not None]
        if points:
            axes.plot(*zip(*points), label=name.replace("_", ", "), linewidth=1.2)
    for before, line in pairwise(lines):
        if (before["n_col"], before["index_mode"]) != (line["n_col"], line["index_mode"]):
            axes.axvline(before["tokens"] / 1e6, color="0.85", linewidth=0.8, zorder=0)
    axes.set(xlabel="tokens trained on (M)", ylabel="cross-entropy (nats per token)", yscale="log")
    axes.legend(frameon=False)
    figure.savefig(out)
    plt.close(figure)


def run(
    figure: Callable[[list[dict[str, Any]], Path], None], program: str, argv: list[str] | None
) -> int:
    """Draw the log that a command line names by a figure of one's own; returns the exit status."""
    p = argparse.ArgumentParser(prog=program)
    p.add_argument("log", type=Path)
    p.add_argument("out", type=Path)
    args = p.parse_args(argv)
    try:
        figure(read(args.log), args.out)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run; returns the exit status."""
    return run(draw, "engine.training.curve", argv)


if __name__ == "__main__":
    sys.exit(main())
