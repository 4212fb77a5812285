"""The releases of DeepSeek V4's chat format: efforts of thinking, and which release a model is of.

The releases differ in one thing only: the instruction that precedes the conversation at each
effort. The first (2026-04) knows `high`, which sends none, and `max`. The one of 2026-07-31 knows
`low`, which sends none, `high`, which sends what the first sent for `max`, and a `max` of its own.
A wrong guess is no error that anybody would see: the model answers, but at another effort.

This module does not know conversations or tokens; `engine.text.chat` renders them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import OptionError

if TYPE_CHECKING:
    from engine.gguf.reader import GGUFFile

NO_THINK = "none"
# The effort of an encoding that sends no instruction, whatever it is called there.
DEFAULT_EFFORT = "on"

# Prompts that the models were trained on, word for word: any other wording is another prompt.
# Source of the first: DeepSeek's encoding notes for V4 (encoding_dsv4, 2026-04); of the second:
# the same file of DeepSeek-V4-Flash-0731, as the renderers of vLLM and of other engines repeat it.
ABSOLUTE_MAXIMUM = (
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to "
    "resolve the root cause, rigorously stress-testing your logic against all potential paths, "
    "edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, "
    "considered alternative, and rejected hypothesis to ensure absolutely no assumption is left "
    "unchecked.\n\n"
)
BEYOND_MAXIMUM = (
    "Reasoning Effort: Beyond maximum \u2014 exhaustive, relentless, and uncompromising.\n"
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: "
    "exhaustively decompose the problem into its most fundamental components, trace every causal "
    "chain to its root, and resolve the underlying cause rather than any surface symptom.\n"
    "Do not stop reasoning until you have independently verified the solution from multiple "
    "angles and are certain that no assumption remains unchecked and no error remains "
    "undiscovered.\n\n"
)


@dataclass(frozen=True, slots=True)
class Encoding:
    """One release's ladder.

    Attributes
    ----------
    name : str
        As --encoding and records call it.
    efforts : tuple of (str, str)
        Efforts from the least, which is the default, with the instruction of each.
    max_ctx : int
        Tokens of context below which 'max' becomes the default effort; 0 for no such bound.
    told : tuple of str
        Efforts that a chat template hears of as `reasoning_effort`. The first release's knows
        'max' alone; 0731's gets each, because its silence is read differently by servers.
    """

    name: str
    efforts: tuple[tuple[str, str], ...]
    max_ctx: int
    told: tuple[str, ...]

    @property
    def modes(self) -> tuple[str, ...]:
        """What a think mode may be: no thinking, or an effort."""
        return (NO_THINK, *(effort for effort, _ in self.efforts))

    @property
    def default(self) -> str:
        return self.efforts[0][0]

    def check(self, mode: str, subject: str = "think mode") -> str:
        """A think mode by its name here; 'on' is the default effort.

        Raises
        ------
        OptionError
            If this release has no such mode.
        """
        if mode == DEFAULT_EFFORT:
            return self.default
        if mode not in self.modes:
            raise OptionError(
                f"{subject}: expected one of {', '.join(self.modes)} (encoding {self.name}), "
                f"found {mode!r}"
            )
        return mode

    def effective(self, mode: str, ctx: int) -> str:
        """Think mode that a context of `ctx` tokens allows.

        Raises
        ------
        OptionError
            If this release has no such mode.
        """
        mode = self.check(mode)
        return self.default if mode == "max" and ctx < self.max_ctx else mode

    def instruction(self, mode: str) -> str:
        """The text that precedes the conversation in an effective mode."""
        return dict(self.efforts).get(mode, "")


# DeepSeek's card of the first release asks for this much context in mode 'max', and the C
# programs think at 'high' with less. The card of 0731 gives the number as a length of output.
FIRST = Encoding("first", (("high", ""), ("max", ABSOLUTE_MAXIMUM)), max_ctx=393_216, told=("max",))
R0731 = Encoding(
    "0731",
    (("low", ""), ("high", ABSOLUTE_MAXIMUM), ("max", BEYOND_MAXIMUM)),
    max_ctx=0,
    told=("low", "high", "max"),
)
ENCODINGS = {encoding.name: encoding for encoding in (FIRST, R0731)}

_0731 = re.compile(r"(?<!\d)0731(?!\d)")
_NAMES = ("general.version", "general.name", "general.basename", "general.finetune")
# 0731 declares a ratio for each of its three drafting blocks, the first release at most for one.
_MORE_RATIOS = 2


@dataclass(frozen=True, slots=True)
class Release:
    """Which encoding a model wants, and how that is known.

    Attributes
    ----------
    encoding : Encoding
    source : str
        What says so; '' where nothing does and the first release is assumed.
    deepseek : bool
        Whether the model calls itself DeepSeek's, so that an assumption deserves a word.
    """

    encoding: Encoding
    source: str = ""
    deepseek: bool = False

    def __str__(self) -> str:
        if self.source:
            return f"encoding: {self.encoding.name} ({self.source})"
        return (
            f"encoding: {self.encoding.name} (assumed: the file does not name its release; "
            "--encoding 0731 for weights of 2026-07-31)"
        )

    @property
    def notice(self) -> str:
        """A line for the user; '' where there is nothing that he could choose."""
        return str(self) if self.source or self.deepseek else ""


def release_of(metadata: Mapping[str, Any] | Any, file_name: str = "") -> Release:
    """The release of a model file, by its metadata and, failing that, by the file's name.

    Parameters
    ----------
    metadata : mapping of str to value
        Of a GGUF file.
    file_name : str
        Published files of both releases may have equal metadata; their names differ.
    """
    for key in _NAMES:
        value = metadata.get(key)
        if isinstance(value, str) and _0731.search(value):
            return Release(R0731, key)
    ratios = metadata.get("deepseek4.attention.compress_ratios")
    layers = metadata.get("deepseek4.block_count")
    declared = len(ratios) if isinstance(ratios, Sized) else 0
    if isinstance(layers, int) and declared >= layers + _MORE_RATIOS:
        return Release(R0731, f"{declared} compress_ratios for {layers} layers")
    if _0731.search(file_name):
        return Release(R0731, "file name")
    name = metadata.get("general.name")
    return Release(FIRST, deepseek=isinstance(name, str) and "deepseek" in name.lower())


def release_of_file(file: GGUFFile) -> Release:
    """The release of an open model file, by what it says and the names that it has."""
    return release_of(file.metadata, file.names)


def named_release(model: str) -> Release:
    """The release of a model that a server lists under a name."""
    return Release(R0731, "model name") if _0731.search(model) else Release(FIRST)


def chosen(name: str | None, found: Release) -> Release:
    """The release of --encoding, else the one that was found."""
    return found if name is None else Release(ENCODINGS[name], "--encoding")


def mtp_warning(release: Release) -> str:
    """What to say of an MTP file beside a trunk of this release; '' where it belongs there."""
    if release.encoding.name != R0731.name:
        return ""
    return (
        f"WARNING: --mtp: expected a trunk of the first release, found 0731 ({release.source}), "
        "which was published without an MTP block: drafts of another release's are hardly "
        "ever kept, and plain decoding is faster"
    )
