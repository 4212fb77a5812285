"""How much a server is asked to think: the effort by its name in the model's release, and fields.

It knows what servers listen to, not the servers themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

from ds4eval.documents import Document
from ds4eval.plan import ReplySettings
from engine.text.encoding import DEFAULT_EFFORT, FIRST, NO_THINK, Encoding, chosen, named_release

DEEPSEEK_HOST = "api.deepseek.com"


@dataclass(frozen=True, slots=True)
class Effort:
    """What a model behind a server is asked for.

    Attributes
    ----------
    encoding : Encoding
        Release of the chat format: of --encoding, else by the model's name.
    think : str
        'none' or an effort of that release.
    sent : bool
        Whether chat requests say so. Servers of DeepSeek's models differ in what they do unasked,
        so that these are always told; others only where the user named an effort or a release,
        since strict ones refuse the fields.
    """

    encoding: Encoding
    think: str
    sent: bool

    def fields(self, host: str) -> Document:
        """Fields of a chat request to a host."""
        if not self.sent:
            return {}
        on = self.think != NO_THINK
        effort: Document = {"reasoning_effort": self.think} if on else {}
        if host == DEEPSEEK_HOST:
            # DeepSeek's own service has no templates and a field of its own.
            return {"thinking": {"type": "enabled" if on else "disabled"}, **effort}
        # What DeepSeek's, llama.cpp's and vLLM's templates listen to.
        return {"chat_template_kwargs": {"thinking": on, "enable_thinking": on}, **effort}

    def identity(self) -> Document:
        """The release's part of a configuration; old records, which lack it, are of the first."""
        return {} if self.encoding.name == FIRST.name else {"encoding": self.encoding.name}

    def notice(self, api: str) -> tuple[str, ...]:
        """Lines for the user."""
        if self.sent or api == "completions":
            return ()
        return ("thinking: left to the server; --effort asks for one",)


def effort_of(settings: ReplySettings, model: str) -> Effort:
    """What settings come to for a model that a server lists under a name.

    Raises
    ------
    OptionError
        If its release has no such effort.
    """
    encoding = chosen(settings.encoding, named_release(model)).encoding
    named = settings.think != DEFAULT_EFFORT or settings.encoding is not None
    sent = named or "deepseek" in model.lower()
    return Effort(encoding, encoding.check(settings.think, "--effort"), sent)
