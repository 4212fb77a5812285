"""Options of thinking that depend on the model's release: --encoding and --effort.

Whether a reply thinks at all is each program's own option; what an effort sends to the model is
known to `engine.text.encoding`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.errors import OptionError
from engine.text.encoding import DEFAULT_EFFORT, ENCODINGS, NO_THINK, R0731, chosen, release_of_file
from engine.tooling.options.group import OptionGroup
from engine.tooling.options.types import OneOf


@dataclass(frozen=True, slots=True)
class ThinkingChoice:
    """What was named of effort and release.

    Attributes
    ----------
    encoding : str or None
        None takes what the model says of itself.
    effort : str or None
        None takes the release's default.
    """

    encoding: str | None = None
    effort: str | None = None

    def mode(self, asked: str) -> str:
        """Think mode of a command line whose own options come to `asked`: none, on or max.

        Raises
        ------
        OptionError
            If they contradict --effort, or the named release has no such mode.
        """
        if self.effort is not None and asked not in (DEFAULT_EFFORT, self.effort):
            other = "--nothink" if asked == NO_THINK else "--think-max"
            raise OptionError(f"--effort: expected without {other}, found {self.effort!r}")
        mode = self.effort or asked
        if self.encoding is not None:
            ENCODINGS[self.encoding].check(mode, "--effort")
        return mode

    def check_file(self, path: Path) -> None:
        """Refuse an effort that the model's release does not have, before weights are read.

        Only the header is read, and only where the answer depends on it.

        Raises
        ------
        OptionError, GGUFError
        """
        if self.effort is None or self.encoding is not None:
            return
        if all(self.effort in encoding.modes for encoding in ENCODINGS.values()):
            return
        from engine.gguf.reader import open_gguf

        with open_gguf(path) as file:
            found = chosen(None, release_of_file(file))
        found.encoding.check(self.effort, "--effort")


THINKING = OptionGroup[ThinkingChoice](
    "Reply",
    (
        (
            ("--effort",),
            {
                "type": OneOf(R0731.modes[1:]),
                "help": "How much the model thinks: high or max; weights of 0731 also know low.",
                "default_text": "the least that the model's release knows",
            },
        ),
        (
            ("--encoding",),
            {
                "type": OneOf(tuple(ENCODINGS)),
                "help": "Release of the chat format that the model was trained with.",
                "default_text": "what the file says, else first",
            },
        ),
    ),
    lambda values: ThinkingChoice(values["encoding"], values["effort"]),
)
