"""The look of figures of both programs: palette, light and dark style, files, drawings for pages.

Colours are told apart by people with any kind of colour vision; on a page they become custom
properties, so that one drawing serves light and dark.
"""

from __future__ import annotations

import io
import re
import warnings
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THEMES = ("light", "dark")
# Okabe and Ito's palette (2008), yellow left out: it vanishes on white. Dark variants are lighter.
LIGHT = ("#0072b2", "#d55e00", "#009e73", "#b2548c", "#56b4e9", "#a67a00")
DARK = ("#56b4e9", "#ff9a52", "#2fd0a0", "#e29ac6", "#9cd6f5", "#e8c14d")
# What stands behind the subject: published curves, baselines.
CONTEXT = {"light": "#737b85", "dark": "#98a1ab"}


def palette(theme: str) -> tuple[str, ...]:
    """Series colours of a theme, as '#rrggbb'."""
    return LIGHT if theme == "light" else DARK


def style(theme: str) -> dict:
    """Matplotlib settings of 'light' or 'dark', for `matplotlib.rc_context`."""
    from matplotlib import rc_params_from_file

    found: dict = {}
    folder = resources.files("engine.tooling.report") / "style"
    for name in ("common", theme):
        with resources.as_file(folder / f"{name}.mplstyle") as path:
            found.update(rc_params_from_file(path, use_default_template=False))
    return found


def colour(theme: str, setting: str) -> str:
    """A colour of the style as '#rrggbb', for example of 'axes.facecolor'."""
    return f"#{str(style(theme)[setting]).lower().lstrip('#')}"


def render(
    fig: Figure,
    kind: str,
    theme: str = "light",
    *,
    program: str = "ds4",
    text_as_paths: bool = True,
) -> bytes:
    """A figure as 'svg' or 'png' bytes; the same input gives the same bytes.

    Parameters
    ----------
    program : str
        Written into the file as its maker.
    text_as_paths : bool
        SVG only: False keeps text as text, for pages in which it can be selected and read out.
    """
    import matplotlib

    out = io.BytesIO()
    options = {**style(theme), "svg.fonttype": "path" if text_as_paths else "none"}
    metadata = {"Date": None, "Creator": program} if kind == "svg" else {"Software": program}
    with matplotlib.rc_context(options), warnings.catch_warnings():
        # A label in a script that the font lacks is drawn as boxes; that is no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        fig.savefig(out, format=kind, metadata=metadata, facecolor=fig.get_facecolor())
    return out.getvalue()


def inline(fig: Figure, prefix: str, label: str) -> str:
    """A figure drawn in the light style as an <svg> element for a page that is light or dark.

    Ink and series colours become the properties of `theme_variables` (--ink, --muted, --line,
    --paper, --s0 and so on); ids carry `prefix`, so that several fit on one page.
    """
    from xml.sax.saxutils import quoteattr

    text = render(fig, "svg", text_as_paths=False).decode("utf-8")
    text = text[text.index("<svg") :]
    swaps = {value: f"var({name})" for name, value in theme_variables("light").items()}
    text = re.sub(r"#[0-9a-f]{6}\b", lambda m: swaps.get(m.group(), m.group()), text)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    # Width and height in points would defeat a phone's screen; the viewBox keeps proportions.
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label={quoteattr(label)}', 1)


def theme_variables(theme: str) -> dict[str, str]:
    """Values of the custom properties that `inline` refers to."""
    return {
        "--paper": colour(theme, "axes.facecolor"),
        "--ink": colour(theme, "text.color"),
        "--muted": colour(theme, "axes.labelcolor"),
        "--edge": colour(theme, "axes.edgecolor"),
        "--line": colour(theme, "grid.color"),
        "--context": CONTEXT[theme],
        **{f"--s{i}": value for i, value in enumerate(palette(theme))},
    }
