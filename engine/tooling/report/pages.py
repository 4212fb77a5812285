"""Pages of both programs: one base template with style and parts, figures drawn into the page.

A program's template extends `page.html.j2` and fills its blocks; it imports `parts.html.j2` for
tables, judgements and figures. A page needs nothing else: no script, no network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.tooling.report import figures
from engine.tooling.report.labels import clean_text

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure


def render_page(
    package: str,
    template: str,
    *,
    program: str,
    title: str,
    filters: dict[str, Callable[..., str]] | None = None,
    **values: Any,
) -> str:
    """The page of a template in `package`/style.

    Parameters
    ----------
    package : str
        Import name of the package whose folder `style` holds the template.
    template : str
        File name; the template extends 'page.html.j2'.
    program, title : str
        For the browser's title bar and the page's heading.
    filters : dict, optional
        Further filters.
    values
        For the template.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=ChoiceLoader(
            [PackageLoader(package, "style"), PackageLoader("engine.tooling.report", "style")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(filters or {})
    themes = {theme: figures.theme_variables(theme) for theme in figures.THEMES}
    return templates.get_template(template).render(
        program=program, title=title, themes=themes, **values
    )


def _shown(value: Any) -> Any:
    """What a template prints: text is cleaned, and then escaped; numbers and markup stay."""
    return clean_text(value) if type(value) is str else value


def drawing(figure: Figure | None, prefix: str, label: str) -> Markup | None:
    """A figure for a page; ids in it carry the prefix."""
    from markupsafe import Markup

    # The markup is our own: `inline` has escaped every label inside it.
    return None if figure is None else Markup(figures.inline(figure, prefix, label))
