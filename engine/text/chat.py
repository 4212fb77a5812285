"""A conversation rendered as DeepSeek V4's chat format, content kept apart from control tokens.

Format (DeepSeek's encoding notes for V4): BOS, the instruction of the effort if it has one
(`engine.text.encoding`), the system text, then turns `<｜User｜>text` and `<｜Assistant｜>` +
`<think>reasoning</think>` or `</think>` + reply + EOS; nothing is put between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import TextError
from engine.text import special
from engine.text.encoding import FIRST, NO_THINK, Encoding
from engine.text.tokenizer import Span

ROLES = ("system", "user", "assistant")
DEFAULT_SYSTEM = "You are a helpful assistant"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `reasoning` is the think block of an assistant's turn, without its tags."""

    role: str
    content: str
    reasoning: str | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise TextError(f"role: expected one of {', '.join(ROLES)}, found {self.role!r}")
        if self.reasoning is not None and self.role != "assistant":
            raise TextError(f"reasoning: expected in an assistant's turn, found in {self.role!r}")


def render_chat(
    messages: Sequence[Message],
    think: str,
    ctx: int,
    keep_reasoning: bool = False,
    encoding: Encoding = FIRST,
) -> list[Span]:
    """Spans of a conversation up to the point where the assistant speaks.

    Parameters
    ----------
    messages : sequence of Message
        The last one is the user's. Empty system texts leave nothing behind.
    think : str
        'none', an effort of the encoding, or 'on' for its default one.
    ctx : int
        Tokens of context; decides whether the first release's 'max' is possible.
    keep_reasoning : bool
        Keep the think blocks of earlier replies; DeepSeek drops them outside tool use.
    encoding : Encoding
        Release that the model was trained with.

    Returns
    -------
    list of Span
        Control tokens in trusted spans, everything a person or a model wrote in others.

    Raises
    ------
    TextError
        If the last message is not the user's.
    OptionError
        If there is no such think mode.
    """
    mode = encoding.effective(think, ctx)
    if not messages or messages[-1].role != "user":
        found = messages[-1].role if messages else "no messages"
        raise TextError(f"messages: expected a user's message at the end, found {found!r}")
    spans = [Span(special.BOS, trusted=True)]
    spans.append(Span(encoding.instruction(mode)))
    for message in messages:
        if message.role == "system":
            spans.append(Span(message.content))
        elif message.role == "user":
            spans += [Span(special.USER, trusted=True), Span(message.content)]
        else:
            spans += _reply(message, keep_reasoning)
    spans += _open_reply(mode)
    return [span for span in spans if span.text]


def render_turn(
    prompt: str, think: str, ctx: int, closed: bool, encoding: Encoding = FIRST
) -> list[Span]:
    """Spans that continue a saved conversation with one more user's message.

    Parameters
    ----------
    closed : bool
        Whether the saved tokens already end with EOS.

    Raises
    ------
    OptionError
        If there is no such think mode.
    """
    spans = [] if closed else [Span(special.EOS, trusted=True)]
    spans += [Span(special.USER, trusted=True), Span(prompt)]
    return [span for span in spans + _open_reply(encoding.effective(think, ctx)) if span.text]


def _open_reply(mode: str) -> list[Span]:
    tag = special.THINK_CLOSE if mode == NO_THINK else special.THINK_OPEN
    return [Span(special.ASSISTANT + tag, trusted=True)]


def _reply(message: Message, keep_reasoning: bool) -> list[Span]:
    """An earlier reply. Text as a model gave it may begin with its own think tags."""
    reasoning, content = message.reasoning, message.content
    if reasoning is None:
        if content.startswith(special.THINK_CLOSE):
            content = content.removeprefix(special.THINK_CLOSE)
        elif content.startswith(special.THINK_OPEN):
            inner, tag, after = content.removeprefix(special.THINK_OPEN).partition(
                special.THINK_CLOSE
            )
            # A block that was never closed stays open only when it is to be kept.
            reasoning, content = inner, after
            if not tag and keep_reasoning:
                return [
                    Span(special.ASSISTANT + special.THINK_OPEN, trusted=True),
                    Span(inner),
                    Span(special.EOS, trusted=True),
                ]
    if reasoning is not None and keep_reasoning:
        block = [
            Span(special.ASSISTANT + special.THINK_OPEN, trusted=True),
            Span(reasoning),
            Span(special.THINK_CLOSE, trusted=True),
        ]
    else:
        block = [Span(special.ASSISTANT + special.THINK_CLOSE, trusted=True)]
    return [*block, Span(content), Span(special.EOS, trusted=True)]


def is_rendered(prompt: str) -> bool:
    """Whether a prompt already begins with the format's own markers."""
    return prompt.startswith((special.BOS, special.USER, special.ASSISTANT))


def ends_thinking(spans: Sequence[Span]) -> bool:
    """Whether rendered spans leave a think block open for the reply."""
    return bool(spans) and spans[-1].trusted and spans[-1].text.endswith(special.THINK_OPEN)
