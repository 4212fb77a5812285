"""Whether a drafter and a trunk are of one checkpoint, by what their files say of themselves.

A drafter of another release drafts, and its drafts are kept less often: nothing is wrong with the
text, and a measurement of speed is one of a pair that nobody runs. So two files that state
different things are refused, and where they state nothing, records say so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import LayoutError
from engine.gguf.reader import GGUFFile
from engine.gguf.values import escape

STATED, UNSTATED, FORCED = "stated equal", "not stated", "forced"
_VARIANT, _REVISION = "deepseek4.checkpoint_variant", "general.source.revision"
# Where a release is named in passing, surest first.
_NAMES = ("general.base_model.0.version", "general.base_model.0.name", "general.version",
          "general.name", "general.basename", "general.finetune")  # fmt: skip
_RELEASE = re.compile(r"(?<!\d)(0731)(?!\d)|(vision[-_ ]?exp)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that a file says of its checkpoint: about what, the value, and where."""

    subject: str
    value: str
    source: str


def statements(metadata: Mapping[str, Any] | Any, file_name: str) -> dict[str, Statement]:
    """What a file says, by subject: 'variant', 'revision', 'release'."""
    found = {}
    for subject, key in (("variant", _VARIANT), ("revision", _REVISION)):
        value = metadata.get(key)
        if isinstance(value, str) and value:
            found[subject] = Statement(subject, value, key)
    places = [(key, metadata.get(key)) for key in _NAMES] + [("file name", file_name)]
    for source, text in places:
        match = _RELEASE.search(text) if isinstance(text, str) else None
        if match is not None:
            value = "0731" if match[1] else "vision-exp"
            found["release"] = Statement("release", value, source)
            break
    return found


def pairing(trunk: GGUFFile, drafter: GGUFFile, force: bool = False) -> tuple[str, str]:
    """Compare the statements of two files.

    Parameters
    ----------
    trunk, drafter : GGUFFile
    force : bool
        Take the drafter whatever the files say.

    Returns
    -------
    pairing : {'stated equal', 'not stated', 'forced'}
        For records.
    notice : str
        What the user should hear; '' where both say the same.

    Raises
    ------
    LayoutError
        If the files state different checkpoints.
    """
    if trunk.path == drafter.path:
        return STATED, ""
    # Links are followed: a file's own name is what its maker called it.
    ours = statements(trunk.metadata, trunk.path.resolve().name)
    theirs = statements(drafter.metadata, drafter.path.resolve().name)
    both = [subject for subject in ours if subject in theirs]
    for subject in both:
        a, b = ours[subject], theirs[subject]
        if a.value != b.value and not force:
            raise LayoutError(
                f"{escape(drafter.path.name)}: expected a drafter of the trunk's {subject}, "
                f"{escape(a.value)} ({a.source}), found {escape(b.value)} ({b.source}): its "
                "drafts would be kept less often; --draft-force takes it all the same"
            )
        if a.value != b.value:
            return FORCED, ""
    if both:
        return STATED, ""
    for name, said in (("trunk", ours), ("drafter", theirs)):
        for statement in said.values():
            return UNSTATED, (
                f"{escape(drafter.path.name)}: only the {name} states its {statement.subject} "
                f"({escape(statement.value)}): whether the two belong together is not known"
            )
    return UNSTATED, ""
