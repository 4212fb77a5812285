"""A prompt as `ds4` puts it on the timeline: plain text, rendered chat, or a turn of a chat.

It knows headers and tokenizers, and no weights: a prompt that cannot be written, or that is too
long for the context, is refused before a model is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import ContextError, OptionError
from engine.text import chat, special
from engine.text.encoding import Release, chosen, release_of_file
from engine.text.tokenizer import Span
from engine.tooling.exits import say

if TYPE_CHECKING:
    from engine.options import EngineOptions
    from engine.text.tokenizer import Tokenizer

# Tokens of a session where -c names none.
DEFAULT_CTX = 32_768


@dataclass(frozen=True, slots=True)
class Written:
    """A prompt's tokens, and whether the model begins behind a closed think block."""

    ids: list[int]
    ends_thinking: bool


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the user asks, and in which form.

    Attributes
    ----------
    text : str
    think : str
        Effort of thinking, or 'none'.
    system : str
        Text of the system message of a new conversation; '' for none.
    raw : bool
        The text is continued as it stands.
    own_template : bool
        The template that the model file carries writes the conversation.
    encoding : str or None
        --encoding; None for what the file says.
    """

    text: str
    think: str
    system: str
    raw: bool
    own_template: bool
    encoding: str | None

    def written(
        self, tokenizer: Tokenizer, release: Release, ctx: int, tokens: list[int]
    ) -> Written:
        """The tokens that follow `tokens` in a session of `ctx` tokens.

        Raises
        ------
        OptionError
            If the file carries no one chat template, though it was asked for.
        """
        spans = self._spans(tokenizer, release, ctx, tokens)
        encoded = tokenizer.encode_spans(spans)
        if encoded.n_special_in_text:
            say(f"prompt: {encoded.n_special_in_text} control-token texts kept as ordinary text")
        return Written(list(encoded.ids), chat.ends_thinking(spans))

    def _spans(
        self, tokenizer: Tokenizer, release: Release, ctx: int, tokens: list[int]
    ) -> list[Span]:
        if self.raw:
            has_bos = tokens or tokenizer.bos_id is None
            start = [] if has_bos else [Span(special.BOS, trusted=True)]
            return [*start, Span(self.text)]
        if chat.is_rendered(self.text):
            say("prompt: begins with chat markers; taken as rendered chat")
            return [Span(self.text, trusted=True)]
        encoding = chosen(self.encoding, release).encoding
        if self.think == "max" and encoding.effective(self.think, ctx) != "max":
            say(
                f"--think-max: needs {encoding.max_ctx} tokens of context, found {ctx}; "
                f"thinking at {encoding.default} effort"
            )
        if tokens:
            closed = tokens[-1] in tokenizer.eos_ids
            return chat.render_turn(self.text, self.think, ctx, closed, encoding)
        messages = [chat.Message("system", self.system), chat.Message("user", self.text)]
        if not self.own_template:
            return chat.render_chat(messages, self.think, ctx, encoding=encoding)
        source = tokenizer.chat_template
        if source is None:
            raise OptionError("--chat-template: expected a file that carries one text, found none")
        from engine.text.template import ChatTemplate

        with ChatTemplate(source) as template:
            return template.render(messages, self.think, ctx, encoding)


def check_room(prompt: Written, room: int) -> None:
    """Refuse a prompt of more tokens than there is room for.

    Raises
    ------
    ContextError
    """
    if len(prompt.ids) > room:
        raise ContextError(
            f"prompt: expected at most {room} tokens (-c sets the context), found {len(prompt.ids)}"
        )


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a model file says of prompts."""

    tokenizer: Tokenizer
    release: Release
    n_ctx_train: int


def read_header(options: EngineOptions) -> Header:
    """The header's part, with no weight read."""
    from engine.text.tokenizer import Tokenizer
    from engine.weights.files import open_model

    with open_model(options) as files:
        return Header(
            Tokenizer.from_metadata(files.trunk.metadata),
            release_of_file(files.trunk),
            files.weights.shape.n_ctx_train,
        )


def first_prompt(options: EngineOptions, prompt: Prompt, ctx: int | None) -> Written:
    """The tokens of a new conversation, by the header of the model file alone.

    Raises
    ------
    ContextError, OptionError
        If it has no room, or cannot be written.
    """
    header = read_header(options)
    ctx = ctx or min(DEFAULT_CTX, header.n_ctx_train)
    written = prompt.written(header.tokenizer, header.release, ctx, [])
    check_room(written, ctx)
    return written
