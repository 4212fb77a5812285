"""The drift report as a figure: growth by layer, and the logits' difference by position."""

from __future__ import annotations

import io

from engine.tooling.diagnose.drift import DriftReport


def draw(report: DriftReport, kind: str, a: str, b: str) -> bytes:
    """The figure in the given file format ('svg', 'png', 'pdf').

    Raises
    ------
    OptionError
        If matplotlib cannot write that format.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from engine.errors import OptionError

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    try:
        if kind not in figure.canvas.get_supported_filetypes():
            raise OptionError(f"--plot: expected a figure format, found {kind!r}")
        figure.suptitle(f"{a or 'default'}  against  {b or 'default'}", fontsize=10)
        layers = [(i, g) for i, g in enumerate(report.growth) if g]
        if layers:
            left.semilogy(*zip(*layers, strict=True), "o-", color="#0072b2")
        else:
            left.text(0.5, 0.5, "no difference before the first flip", ha="center", va="center")
        left.set(xlabel="layer", ylabel="relative rms of the state", title="growth before a flip")
        rms = [(i, r) for i, r in enumerate(report.logits_rms) if r > 0]
        if rms:
            right.semilogy(*zip(*rms, strict=True), ".", color="#0072b2", markersize=4)
        else:
            right.text(0.5, 0.5, "logits are equal, bit for bit", ha="center", va="center")
        right.set(xlabel="position", ylabel="rms of the logits' difference", title="by position")
        marks = (
            (report.first_flip, "first flip", "#d55e00", "--"),
            (report.first_argmax, "first changed token", "#009e73", ":"),
        )
        for item, label, colour, style in marks:
            if item is not None:
                right.axvline(item.position, color=colour, linestyle=style, label=label)
        if report.first_flip or report.first_argmax:
            right.legend(fontsize=8)
        for axes in (left, right):
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=150)
        return buffer.getvalue()
    finally:
        plt.close(figure)
