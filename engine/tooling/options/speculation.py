"""Command-line options of speculative decoding, the same in every program.

ds4's environment switches are options here: DS4_MTP_STRICT is `--mode mtp-strict`,
DS4_MTP_BATCH_VERIFY `--mode mtp-batched`, DS4_MTP_NO_CASCADE `--mode mtp-combined --mtp-draft 1`,
DS4_MTP_COMBINED_K2 `--mtp-draft 2`, DS4_MTP_CASCADE_ADAPTIVE `--mtp-adaptive`,
DS4_MTP_MIN_MARGIN `--mtp-margin`, DS4_MTP_SPEC_DISABLE `--mode plain`. Its faster, inexact
verification has no counterpart: every mode emits plain's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.errors import OptionError
from engine.options import MODES
from engine.tooling.options.group import OptionGroup
from engine.tooling.options.model import ModelChoice
from engine.tooling.options.types import Number, OneOf, Whole

if TYPE_CHECKING:
    from engine.spec.protocol import SpecStats

MAX_DRAFT = 4
# Drafts after which a drafter is judged, and the share that has to be kept: DeepSeek reports 85 to
# 90 % for V3's block, and below one in ten no machine's step pays for the draft.
FIRST_DRAFTS = 200
HARDLY_KEPT = 0.1


@dataclass(frozen=True, slots=True)
class SpecChoice:
    """How to decode; apart from `mtp` the arguments of `engine.spec.modes.open_decoder`.

    Attributes
    ----------
    modes : tuple of str
        One mode, or in a sweep several.
    mtp : Path or None
        File of --mtp.
    draft : int
        Tokens drafted per step.
    adaptive : bool
    margin : float
        Of the drafting block's two best logits.
    """

    modes: tuple[str, ...] = MODES[:1]
    mtp: Path | None = None
    draft: int = 1
    adaptive: bool = False
    margin: float = 0.0

    @property
    def mode(self) -> str:
        """The mode of a command line that has one."""
        (mode,) = self.modes
        return mode

    @property
    def drafts(self) -> bool:
        """Whether any mode drafts, and so needs an MTP block."""
        return any(mode != MODES[0] for mode in self.modes)

    def block(self, model: ModelChoice) -> Path | None:
        """File of the MTP block: the one named, or the bundled model's own; None without one.

        Raises
        ------
        OptionError
            See `bundled_model`.
        """
        if not self.drafts or self.mtp is not None:
            return self.mtp
        recipe = model.bundled
        if recipe is None:
            return None
        from engine.models.bundled import bundled_model

        return bundled_model("mtp", recipe).path

    def needed_block(self, model: ModelChoice) -> Path | None:
        """As `block`, refusing a mode that drafts without one before the model is opened.

        Raises
        ------
        OptionError
        """
        found = self.block(model)
        if self.drafts and found is None:
            raise OptionError(f"--mode {self.modes[-1]}: expected --mtp FILE, found none")
        return found


def spec_options(*, several: bool = False) -> OptionGroup[SpecChoice]:
    """The group.

    Parameters
    ----------
    several : bool
        Whether --mode may be given again, or be 'all': for a sweep, which compares modes.
    """
    mode: dict[str, Any] = {
        "type": OneOf((*MODES, "all") if several else MODES),
        "default_text": MODES[0],
        "help": "How tokens are decoded; every mode emits the same tokens."
        + (" May be given again." if several else ""),
    }
    mode |= {"multiple": True} if several else {"default": MODES[0]}
    return OptionGroup(
        "Speculative decoding",
        (
            (("--mode",), mode),
            (
                ("--mtp",),
                {
                    "type": click.Path(path_type=Path),
                    "help": "GGUF file of the block that drafts tokens (multi-token prediction).",
                    "default_text": "the bundled model's own",
                },
            ),
            (
                ("--mtp-draft",),
                {
                    "type": Whole(1, MAX_DRAFT),
                    "aliases": ("--draft",),
                    "help": "Tokens drafted per step.",
                    "default_text": "1",
                },
            ),
            (
                ("--mtp-adaptive",),
                {
                    "is_flag": True,
                    "help": "Draft fewer than --mtp-draft where acceptance and cost advise it.",
                },
            ),
            (
                ("--mtp-margin",),
                {
                    "type": Number(0),
                    "help": "Stop drafting where the block's two best logits are closer than this.",
                    "default_text": "0",
                },
            ),
        ),
        _parse,
    )


def _parse(values: dict[str, Any]) -> SpecChoice:
    given = values["mode"]
    modes = _modes(given) if isinstance(given, tuple) else (given,)
    if modes == MODES[:1]:
        for name in ("mtp", "mtp_draft", "mtp_adaptive", "mtp_margin"):
            if values[name] not in (None, False):
                option = name.replace("_", "-")
                raise OptionError(f"--{option}: expected a --mode that drafts, found plain")
    return SpecChoice(
        modes,
        values["mtp"],
        values["mtp_draft"] or 1,
        values["mtp_adaptive"],
        values["mtp_margin"] or 0.0,
    )


def _modes(given: tuple[str, ...]) -> tuple[str, ...]:
    if "all" in given:
        if len(given) > 1:
            raise OptionError("--mode: expected 'all' alone, found other modes beside it")
        return MODES
    return given or MODES[:1]


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


class DraftWatch:
    """Says once, while a run goes on, that a drafter's first drafts are hardly ever kept.

    Parameters
    ----------
    mode : str
        Decode mode.
    """

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._asked = mode == MODES[0]
        self.said = False

    def after(self, stats: SpecStats) -> str:
        """What to say after a step; '' but once at most. Judged by the first of a step's drafts."""
        if self._asked or stats.drafted < FIRST_DRAFTS:
            return ""
        self._asked = True
        drafted, kept = stats.by_position[0]
        if kept >= HARDLY_KEPT * drafted:
            return ""
        self.said = True
        return (
            f"WARNING: {self._mode}: expected drafts that are mostly kept, found {kept} of the "
            f"first {drafted} ({100 * kept / drafted:.1f} %): --mode plain is faster; is this "
            "the MTP block of this model and release?"
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
