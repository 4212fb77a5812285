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
    named : bool
        Whether chat requests name the effort. Servers of DeepSeek's models differ in what they do
        unasked, so that these are always told; others only where the user named an effort or a
        release. Whether to think at all is always said.
    """

    encoding: Encoding
    think: str
    named: bool

    def fields(self, host: str) -> Document:
        """Fields of a chat request to a host, in every spelling that servers listen to.

        Templates under vLLM, SGLang and llama.cpp read one of the two keyword arguments;
        DeepSeek's own service has no templates and reads `thinking` alone. A server that is not
        asked may not think at all; one that refuses a field is asked again without it.
        """
        on = self.think != NO_THINK
        fields: Document = {"thinking": {"type": "enabled" if on else "disabled"}}
        if host != DEEPSEEK_HOST:
            fields["chat_template_kwargs"] = {"thinking": on, "enable_thinking": on}
        if on and self.named:
            fields["reasoning_effort"] = self.think
        return fields

    def identity(self) -> Document:
        """The release's part of a configuration; old records, which lack it, are of the first."""
        return {} if self.encoding.name == FIRST.name else {"encoding": self.encoding.name}

    def notice(self, api: str) -> tuple[str, ...]:
        """Lines for the user."""
        if self.named or api == "completions":
            return ()
        return ("effort of thinking: left to the server; --effort asks for one",)


def effort_of(settings: ReplySettings, model: str) -> Effort:
    """What settings come to for a model that a server lists under a name.

    Raises
    ------
    OptionError
        If its release has no such effort.
    """
    encoding = chosen(settings.encoding, named_release(model)).encoding
    named = settings.think != DEFAULT_EFFORT or settings.encoding is not None
    told = named or "deepseek" in model.lower()
    return Effort(encoding, encoding.check(settings.think, "--effort"), told)
