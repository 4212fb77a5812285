"""Command-line options of speculative decoding, the same in every program.

ds4's environment switches are options here: DS4_MTP_STRICT is `--mode mtp-strict`,
DS4_MTP_BATCH_VERIFY `--mode mtp-batched`, DS4_MTP_NO_CASCADE `--mode mtp-combined --mtp-draft 1`,
DS4_MTP_COMBINED_K2 `--mtp-draft 2`, DS4_MTP_CASCADE_ADAPTIVE `--mtp-adaptive`,
DS4_MTP_MIN_MARGIN `--mtp-margin`, DS4_MTP_SPEC_DISABLE `--mode plain`; `--dspark-confidence` is
`--draft-confidence` and `--dspark-strict` is `--mode dspark-strict`. Its faster, inexact
verification has no counterpart: every mode emits plain's tokens.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.errors import ModelFileError, OptionError
from engine.options import DSPARK_MODES, MODES, MTP_MODES
from engine.tooling.options.group import OptionGroup
from engine.tooling.options.model import ModelChoice
from engine.tooling.options.types import Number, OneOf, Whole

if TYPE_CHECKING:
    from engine.spec.protocol import SpecStats

MAX_DRAFT = 4
MAX_BLOCK = 15  # of any DSpark drafter; whose own block is shorter, refuses the rest
# Drafts after which a drafter is judged, and the share that has to be kept: DeepSeek reports 85 to
# 90 % for V3's block, and below one in ten no machine's step pays for the draft.
FIRST_DRAFTS = 200
HARDLY_KEPT = 0.1


@dataclass(frozen=True, slots=True)
class SpecChoice:
    """How to decode.

    Attributes
    ----------
    modes : tuple of str
        One mode, or in a sweep several.
    mtp : Path or None
        File of --mtp.
    draft : int
        Tokens that an MTP block drafts per step.
    adaptive : bool
    margin : float
        Of the drafting block's two best logits.
    draft_model : Path or None
        File of --draft-model, of either kind.
    draft_max : int or None
        Most tokens that a DSpark drafter drafts per step; None for its whole block.
    draft_confidence : float
        It stops where it is less sure than this.
    draft_adaptive : bool
    draft_force : bool
        Take a drafter that states another checkpoint than the trunk.
    every : bool
        --mode all: the modes that the drafters at hand allow.
    """

    modes: tuple[str, ...] = MODES[:1]
    mtp: Path | None = None
    draft: int = 1
    adaptive: bool = False
    margin: float = 0.0
    draft_model: Path | None = None
    draft_max: int | None = None
    draft_confidence: float = 0.0
    draft_adaptive: bool = False
    draft_force: bool = False
    every: bool = False

    @property
    def mode(self) -> str:
        """The mode of a command line that has one."""
        (mode,) = self.modes
        return mode

    @property
    def drafts(self) -> bool:
        """Whether any mode drafts with an MTP block, and so needs one."""
        return any(mode in MTP_MODES for mode in self.modes)

    @property
    def sparks(self) -> bool:
        """Whether any mode needs a DSpark drafter."""
        return any(mode in DSPARK_MODES for mode in self.modes)

    def found(self, model: ModelChoice) -> Drafters:
        """The drafters' files: those that are named, or the bundled model's own.

        Raises
        ------
        OptionError
            See `bundled_model`, or if --draft-model is given twice over.
        ModelFileError
            If --draft-model is no model file, or no drafter.
        """
        return drafters(
            self.modes, self.mtp, self.draft_model, model.bundled, model.path, self.every
        )

    def needed(self, model: ModelChoice) -> Drafters:
        """As `found`, refusing a mode that drafts without a drafter before the model is opened.

        Raises
        ------
        OptionError, ModelFileError
        """
        found = self.found(model)
        if self.drafts and found.mtp is None:
            raise OptionError(f"--mode {self.modes[-1]}: expected --mtp FILE, found none")
        if self.sparks and found.dspark is None:
            raise OptionError(f"--mode {self.modes[-1]}: expected --draft-model FILE, found none")
        return found

    def settled(self, found: Drafters) -> SpecChoice:
        """With the modes that --mode all means beside these drafters."""
        if not self.every:
            return self
        if found.mtp is None and found.dspark is None:
            # Refused by whoever opens the model, for want of a block.
            return replace(self, modes=(MODES[0], *MTP_MODES), every=False)
        absent: tuple[str, ...] = MTP_MODES if found.mtp is None else ()
        absent += DSPARK_MODES if found.dspark is None else ()
        return replace(self, modes=tuple(m for m in MODES if m not in absent), every=False)


@dataclass(frozen=True, slots=True)
class Drafters:
    """Files of the drafters that a command line has, and what to say of them."""

    mtp: Path | None = None
    dspark: Path | None = None
    notice: str = ""


def drafters(
    modes: tuple[str, ...],
    mtp: Path | None,
    draft_model: Path | None,
    bundled: str | None,
    trunk: Path | None,
    every: bool = False,
) -> Drafters:
    """Files of the drafters that some modes use.

    Parameters
    ----------
    modes : tuple of str
    mtp, draft_model : Path or None
        Of --mtp and --draft-model.
    bundled : str or None
        Recipe of the bundled model, where that is used.
    trunk : Path or None
        The named model, which may carry a DSpark drafter.
    every : bool
        Whether modes are to be chosen by the drafters.

    Raises
    ------
    OptionError, ModelFileError
    """
    from engine.models.bundled import RECIPES, bundled_model
    from engine.weights.dspark.kinds import MTP, kind_of

    dspark, notice = None, ""
    if draft_model is not None:
        kind, told = kind_of(draft_model)
        notice = f"--draft-model: {told}"
        if kind == MTP and mtp is not None:
            raise OptionError("--draft-model: expected a DSpark drafter beside --mtp, found MTP")
        mtp, dspark = (draft_model, None) if kind == MTP else (mtp, draft_model)
    wants_mtp = any(mode in MTP_MODES for mode in modes)
    wants_dspark = any(mode in DSPARK_MODES for mode in modes)
    if bundled is not None:
        if mtp is None and wants_mtp:
            mtp = bundled_model("mtp", bundled).path
        if dspark is None and wants_dspark:
            # One head for both recipes: its training met the trunks of both.
            dspark = bundled_model("dspark", RECIPES[-1]).path
    elif dspark is None and trunk is not None and wants_dspark:
        # What is wrong with the model itself, opening it says.
        with contextlib.suppress(ModelFileError):
            dspark = trunk if kind_of(trunk, alone=False)[0] not in (MTP, "") else None
    if not every:
        mtp = mtp if wants_mtp else None
        dspark = dspark if wants_dspark else None
    return Drafters(mtp, dspark, notice)


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
                ("--draft-model",),
                {
                    "type": click.Path(path_type=Path),
                    "help": "GGUF file of a drafter: DSpark's or an MTP block; which, is told.",
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
            *_DSPARK_OPTIONS,
        ),
        _parse,
    )


_DSPARK_OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("--draft-max",),
        {
            "type": Whole(1, MAX_BLOCK),
            "help": "Most tokens that DSpark drafts per step.",
            "default_text": "its whole block",
        },
    ),
    (
        ("--draft-confidence",),
        {
            "type": Number(0, 1),
            "help": "DSpark stops drafting where it is less sure than this.",
            "default_text": "0",
        },
    ),
    (
        ("--draft-adaptive",),
        {
            "is_flag": True,
            "help": "DSpark drafts as far as confidence and measured costs make it pay.",
        },
    ),
    (
        ("--draft-force",),
        {
            "is_flag": True,
            "help": "Take a DSpark drafter that states another checkpoint than the model.",
        },
    ),
)


def _parse(values: dict[str, Any]) -> SpecChoice:
    given = values["mode"]
    modes = _modes(given) if isinstance(given, tuple) else (given,)
    for kinds, names in ((MTP_MODES, _OF_MTP), (DSPARK_MODES, _OF_DSPARK)):
        if any(mode in kinds for mode in modes):
            continue
        for name in names:
            if values[name] not in (None, False):
                option = name.replace("_", "-")
                wanted = "that drafts" if modes == MODES[:1] else kinds[0]
                found = "plain" if modes == MODES[:1] else ", ".join(modes)
                raise OptionError(f"--{option}: expected a --mode {wanted}, found {found}")
    if modes == MODES[:1] and values["draft_model"] is not None:
        raise OptionError("--draft-model: expected a --mode that drafts, found plain")
    return SpecChoice(
        modes,
        values["mtp"],
        values["mtp_draft"] or 1,
        values["mtp_adaptive"],
        values["mtp_margin"] or 0.0,
        values["draft_model"],
        values["draft_max"],
        values["draft_confidence"] or 0.0,
        values["draft_adaptive"],
        values["draft_force"],
        isinstance(given, tuple) and "all" in given,
    )


_OF_MTP = ("mtp", "mtp_draft", "mtp_adaptive", "mtp_margin")
_OF_DSPARK = ("draft_max", "draft_confidence", "draft_adaptive", "draft_force")


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
