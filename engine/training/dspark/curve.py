"""Draws a drafter's log: ``python -m engine.training.dspark.curve log.jsonl curve.svg``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from engine.training.curve import run


def draw(lines: list[dict[str, Any]], out: Path) -> None:
    """Agreement with the trunk by slot over anchors, in training and on documents held out."""
    import matplotlib

    matplotlib.use("Agg")
    # Equal logs give equal files.
    matplotlib.rcParams["svg.hashsalt"] = "ds4"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    training = [x for x in lines if x.get("agree") and not x.get("held_out")]
    held_out = [x for x in lines if x.get("held_out")]
    for slot in range(max((len(x["agree"]) for x in training), default=0)):
        points = [(x["anchors"] / 1e3, x["agree"][slot]) for x in training]
        (line,) = axes.plot(*zip(*points), linewidth=1, alpha=0.5, label=f"slot {slot}")
        for name, mark in (("iq2_exam", "o"), ("q8_exam", "x")):
            found = [
                (x["anchors"] / 1e3, x[name]["agree"][slot])
                for x in held_out
                if x.get(name, {}).get("agree")
            ]
            if found:
                axes.plot(*zip(*found), mark, color=line.get_color(), markersize=4)
    axes.set(
        xlabel="anchors trained on (thousands)",
        ylabel="share equal to the trunk's likeliest token",
        title="Lines: training; circles, crosses: exams held out, trunks iq2 and q8",
        ylim=(0, 1),
    )
    axes.legend(frameon=False)
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Run; returns the exit status."""
    return run(draw, "engine.training.dspark.curve", argv)


if __name__ == "__main__":
    sys.exit(main())
