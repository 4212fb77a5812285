"""Token ids to text as they arrive: whole characters only, and whether we are inside thinking."""

from __future__ import annotations

import codecs

from engine.text import special
from engine.text.tokenizer import Tokenizer


class TextStream:
    """Incremental `Tokenizer.decode`.

    After any number of tokens, everything that `push` returned plus `pending` equals
    `decode` of those tokens.

    Parameters
    ----------
    tokenizer : Tokenizer
    thinking : bool
        Whether the prompt already opened a think block.

    Attributes
    ----------
    thinking : bool
        State after the last token. Only the control tokens switch it; the same characters
        spelled out in ordinary tokens do not.
    n_thinking : int
        Tokens pushed while thinking, the closing one included.
    """

    def __init__(self, tokenizer: Tokenizer, thinking: bool = False) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._open = tokenizer.special_ids.get(special.THINK_OPEN)
        self._close = tokenizer.special_ids.get(special.THINK_CLOSE)
        self.thinking = thinking
        self.n_thinking = 0

    def push(self, token: int) -> str:
        """Text that this token completes; empty while a character is unfinished.

        Raises
        ------
        TextError
            If there is no such token.
        """
        text = self._decoder.decode(self._tokenizer.token_bytes(token))
        if token == self._open:
            self.thinking = True
        self.n_thinking += self.thinking
        if token == self._close:
            self.thinking = False
        return text

    @property
    def pending(self) -> str:
        """What the unfinished bytes would read as if no more came: nothing, or U+FFFD."""
        held, _ = self._decoder.getstate()
        return held.decode("utf-8", errors="replace")

    def finish(self) -> str:
        """The rest of the text; the stream starts afresh afterwards."""
        return self._decoder.decode(b"", final=True)
