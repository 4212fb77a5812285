"""Draws the pictures of docs/decode-modes.md: one decode mode each, two steps, to scale.

It does not decode anything: the steps are written out below, and the widths are times that were
measured for the bundled model. Run it from the repository's root to write the files again:

    python docs/images/decode_modes.py
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

# Milliseconds of the bundled model on two cores (speed-bench/README.md): a token, a drafted
# token, a verification of three rows; and of DSpark a block with its tokens, and six rows.
TOKEN_MS, DRAFT_MS, VERIFY_MS = 1.6, 0.4, 2.8
BLOCK_MS, WIDE_MS = 2.4, 3.4
SCALE = 60  # pixels a millisecond
LEFT, TOP, LANE, BOX = 94, 44, 46, 32  # margins, distance of lanes, height of a box
WIDTH = LEFT + int(11.2 * SCALE) + 16
INK, PAPER, FAINT = "#24292f", "#ffffff", "#8c959f"
COLOURS = {"eval": "#cfe3f7", "verify": "#a5c8ec", "draft": "#f6e3b4"}
COLOURS |= {"wide": COLOURS["verify"], "block": COLOURS["draft"]}
KEPT, DROPPED = "#1a7f37", "#cf222e"


@dataclass(frozen=True, slots=True)
class Box:
    """One pass: over the whole model (`eval`, `verify`, `wide`) or the drafter (`draft`, `block`).

    Parameters
    ----------
    kind : {'eval', 'verify', 'wide', 'draft', 'block'}
    rows : tuple of str
        Tokens that go in; a draft shows the token that comes out.
    dropped : int
        Rows, counted from the end, that turn out to be wrong.
    """

    kind: str
    rows: tuple[str, ...]
    dropped: int = 0

    @property
    def width_ms(self) -> float:
        widths = {"eval": TOKEN_MS, "draft": DRAFT_MS, "verify": VERIFY_MS}
        return (widths | {"block": BLOCK_MS, "wide": WIDE_MS})[self.kind]

    @property
    def drafts(self) -> bool:
        """Whether the drafter runs it."""
        return self.kind in ("draft", "block")


@dataclass(frozen=True, slots=True)
class Step:
    """Passes in the order in which they run, and the tokens that the step emits at its end."""

    boxes: tuple[Box, ...]
    emitted: tuple[str, ...]


def _eval(token: str) -> Box:
    return Box("eval", (token,))


def _draft(token: str, dropped: bool = False) -> Box:
    return Box("draft", (token,), int(dropped))


MODES: dict[str, tuple[str, tuple[Step, ...]]] = {
    "plain": (
        "plain: every token is one pass over all weights",
        tuple(Step((_eval(token),), (token,)) for token in "7+8=15"),
    ),
    "mtp-strict": (
        "mtp-strict: every draft is checked by a pass of one token",
        (
            Step(
                (_eval("7"), _draft("8"), _draft("="), _eval("+"), _eval("8"), _eval("=")),
                ("7", "+", "8", "="),
            ),
            Step(
                (_eval("1"), _draft(";", dropped=True), _draft("1", dropped=True), _eval("5")),
                ("1", "5"),
            ),
        ),
    ),
    "mtp-batched": (
        "mtp-batched: one token alone, then the next one and its drafts in one pass",
        (
            Step(
                (_eval("7"), _draft("8"), _draft("="), Box("verify", ("+", "8", "="))),
                ("7", "+", "8", "="),
            ),
            Step(
                (
                    _eval("1"),
                    _draft(";", dropped=True),
                    _draft("1", dropped=True),
                    Box("verify", ("5", ";", "1"), dropped=2),
                ),
                ("1", "5"),
            ),
        ),
    ),
    "mtp-combined": (
        "mtp-combined: the token and its drafts in one pass",
        (
            Step((_draft("+"), _draft("8"), Box("verify", ("7", "+", "8"))), ("7", "+", "8")),
            Step(
                (_draft("1"), _draft("3", dropped=True), Box("verify", ("=", "1", "3"), dropped=1)),
                ("=", "1"),
            ),
        ),
    ),
    "dspark": (
        "dspark: a block of five drafts at once, and the token with all of them in one pass",
        (
            Step(
                (
                    Box("block", ("+", "8", "=", "1", "3"), dropped=1),
                    Box("wide", ("7", "+", "8", "=", "1", "3"), dropped=1),
                ),
                ("7", "+", "8", "=", "1"),
            ),
        ),
    ),
    "dspark-strict": (
        "dspark-strict: a block of five drafts, each checked by a pass of one token",
        (
            Step(
                (
                    Box("block", ("+", "8", "1", "=", "1"), dropped=3),
                    *(_eval(token) for token in "7+8"),
                ),
                ("7", "+", "8"),
            ),
        ),
    ),
}


def _text(x: float, y: float, text: str, size: int = 14, colour: str = INK, **more: str) -> str:
    attributes = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}"{attributes}>'
        f"{escape(text)}</text>"
    )


def _box(box: Box, x: float, y: float) -> list[str]:
    width = box.width_ms * SCALE
    parts = [
        f'<rect x="{x:.1f}" y="{y}" width="{width - 2:.1f}" height="{BOX}" rx="4" '
        f'fill="{COLOURS[box.kind]}" stroke="{INK}" stroke-width="0.8"/>'
    ]
    for i, token in enumerate(box.rows):
        right = i < len(box.rows) - box.dropped
        middle = x + (i + 0.5) * (width - 2) / len(box.rows)
        colour = INK if right else DROPPED
        line = {} if right else {"text_decoration": "line-through"}
        parts.append(_text(middle, y + 21, token, 15, colour, text_anchor="middle", **line))
    return parts


def draw(mode: str) -> str:
    """The picture of a mode as SVG text.

    Raises
    ------
    KeyError
        If there is no such mode.
    """
    title, steps = MODES[mode]
    model, block, out = TOP, TOP + LANE, TOP + 2 * LANE
    height = out + 62
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="Helvetica, Arial, sans-serif" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>',
        _text(12, 25, title, 15, font_weight="bold"),
        _text(12, model + 21, "model", 13, FAINT),
        _text(12, block + 21, "draft block", 13, FAINT),
        _text(12, out + 21, "emitted", 13, FAINT),
    ]
    x, n_emitted = float(LEFT), 0
    for step in steps:
        for box in step.boxes:
            parts += _box(box, x, block if box.drafts else model)
            x += box.width_ms * SCALE
        parts.append(
            f'<line x1="{x - 1:.1f}" y1="{TOP - 6}" x2="{x - 1:.1f}" y2="{out + BOX}" '
            f'stroke="{FAINT}" stroke-dasharray="3 3"/>'
        )
        tokens = " ".join(step.emitted)
        parts.append(_text(x - 8, out + 21, tokens, 15, KEPT, text_anchor="end"))
        n_emitted += len(step.emitted)
    ms = (x - LEFT) / SCALE
    note = f"{n_emitted} tokens in {ms:.1f} ms: {ms / n_emitted:.2f} ms a token"
    parts.append(_text(LEFT, out + 52, note, 13, FAINT))
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Write every picture beside this script."""
    for mode in MODES:
        (Path(__file__).parent / f"{mode}.svg").write_text(draw(mode), encoding="utf-8")


if __name__ == "__main__":
    main()
