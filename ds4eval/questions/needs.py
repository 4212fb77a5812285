"""Tells whether what a selection of questions needs for its grades is installed.

Asked before a model is loaded and before replies are graded again: no verdict may hang on what a
machine happens to have.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from ds4eval.questions.errors import DatasetError

PACKAGE, EXTRA = "math_verify", "latex"


def require_graders(kinds: Iterable[str], what: str) -> None:
    """Refuse kinds of answers that this installation cannot grade.

    Parameters
    ----------
    kinds : iterable of str
        Of the questions.
    what : str
        Subject of the message: a suite, a run folder.

    Raises
    ------
    DatasetError
        Naming the extra that is missing.
    """
    if "latex" in kinds and find_spec(PACKAGE) is None:
        raise DatasetError(
            f"{what}: expected the package 'math-verify' for answers in LaTeX, found none "
            f"installed (pip install 'ds4bench[{EXTRA}]')"
        )
