"""Command-line options of speculative decoding, the same in every program.

ds4's environment switches are options here: DS4_MTP_STRICT is `--mode mtp-strict`,
DS4_MTP_BATCH_VERIFY `--mode mtp-batched`, DS4_MTP_NO_CASCADE `--mode mtp-combined --mtp-draft 1`,
DS4_MTP_COMBINED_K2 `--mtp-draft 2`, DS4_MTP_CASCADE_ADAPTIVE `--mtp-adaptive`,
DS4_MTP_MIN_MARGIN `--mtp-margin`, DS4_MTP_SPEC_DISABLE `--mode plain`. Its faster, inexact
verification has no counterpart: every mode emits plain's tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.errors import OptionError
from engine.options import MODES
from engine.tooling.options.finite import Finite

if TYPE_CHECKING:
    from engine.spec.protocol import SpecStats

_OPTIONS = (
    click.option(
        "--mode",
        type=click.Choice(MODES),
        default=MODES[0],
        show_default=True,
        help="How tokens are decoded; all modes emit the same text.",
    ),
    click.option(
        "--mtp",
        type=click.Path(path_type=Path),
        help="File of the drafting (MTP) block [default: the bundled model's own].",
    ),
    click.option(
        "--mtp-draft",
        type=click.IntRange(1, 4),
        default=1,
        show_default=True,
        help="Tokens drafted per step.",
    ),
    click.option(
        "--mtp-adaptive", is_flag=True, help="Up to --mtp-draft, as acceptance and cost suggest."
    ),
    click.option(
        "--mtp-margin",
        type=Finite(0),
        default=0.0,
        show_default=True,
        help="Stop drafting where the block's two best logits are closer than this.",
    ),
)
_NAMES = ("mode", "mtp", "mtp_draft", "mtp_adaptive", "mtp_margin")


@dataclass(frozen=True, slots=True)
class SpecChoice:
    """How to decode; the arguments of `engine.spec.modes.open_decoder`."""

    mode: str
    draft: int
    adaptive: bool
    margin: float


def spec_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: adds the options; the command gets them as keyword arguments."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def take_spec_options(
    values: dict[str, Any], bundled: str | None
) -> tuple[SpecChoice, Path | None]:
    """The choice, and the MTP file to open, from a command's keyword arguments.

    Parameters
    ----------
    values : dict
        The options are removed from it.
    bundled : str or None
        Recipe of the bundled model, if that is the trunk: its block is used when none is named.

    Raises
    ------
    OptionError
        If a speculative mode has no block, or a block is given that plain decoding ignores.
    """
    mode, path, draft, adaptive, margin = (values.pop(name) for name in _NAMES)
    if mode == MODES[0]:
        if path is not None:
            raise OptionError("--mtp: expected a --mode that drafts, found plain")
        return SpecChoice(mode, draft, adaptive, margin), None
    if path is None:
        if bundled is None:
            raise OptionError(f"--mode {mode}: expected --mtp FILE, found none")
        from engine.models.bundled import bundled_model

        path = bundled_model("mtp", bundled).path
    return SpecChoice(mode, draft, adaptive, margin), path


def describe(stats: SpecStats) -> str:
    """One line on what drafting did, e.g. for stderr; '' when nothing could be drafted."""
    if not stats.drafted:
        return ""
    by_depth = ", ".join(f"{kept}/{drafted}" for drafted, kept in stats.by_position if drafted)
    return (
        f"drafts: {stats.accepted} of {stats.drafted} kept "
        f"({100 * stats.accepted / stats.drafted:.0f} %; by depth {by_depth}), "
        f"{stats.tokens / stats.steps:.2f} tokens/step; "
        f"draft {1e3 * stats.draft_s / stats.steps:.2f}, "
        f"verify {1e3 * stats.verify_s / stats.steps:.2f}, "
        f"rollback {1e3 * stats.rollback_s / stats.steps:.2f} ms/step"
    )


def warnings(stats: SpecStats, mode: str) -> list[str]:
    """What a user must know about a drafter that does not help."""
    if mode == MODES[0] or not stats.steps:
        return []
    if not stats.drafted:
        return [f"WARNING: {mode}: the drafter never ran; decoding was plain"]
    if not stats.accepted and stats.drafted >= 16:
        return [
            f"WARNING: {mode}: none of {stats.drafted} drafts was kept; "
            "is this the MTP block of this model?"
        ]
    return []
