"""Counts the tokens of a prompt as a server does: by its tokenizer, else by its usage records.

Servers name their tokenizer differently; each form known is tried once. A tokenizer may leave out
what the server adds (a begin-of-text token), so a count is corrected by the usage of real replies.
"""

from __future__ import annotations

from collections.abc import Callable

from ds4bench.server.ask import Server
from engine.tooling.openai import shapes
from engine.tooling.openai.refusals import Trouble

PROBE = "One two three."


def _llama_cpp(server: Server, text: str) -> object:
    return server.post("tokenize", {"content": text, "add_special": True})


def _vllm(server: Server, text: str) -> object:
    """vLLM's; SGLang has taken it over."""
    return server.post("tokenize", {"model": server.model, "prompt": text})


def _llama_cpp_python(server: Server, text: str) -> object:
    return server.post("extras/tokenize/count", {"model": server.model, "input": text})


FORMS: dict[str, Callable[[Server, str], object]] = {
    "/tokenize of llama.cpp": _llama_cpp,
    "/tokenize of vLLM": _vllm,
    "/extras/tokenize/count of llama-cpp-python": _llama_cpp_python,
}


def count_in(found: object) -> int | None:
    """Tokens that a tokenizer's answer holds; None if it is none."""
    if not isinstance(found, dict):
        return None
    count = shapes.count_of(found.get("count"))
    if count is None and isinstance(found.get("tokens"), list):
        count = len(found["tokens"])
    return count or None


class Counter:
    """Tokens of a prompt; see the module.

    Attributes
    ----------
    how : str
        What counts, for the record.
    asked : int
        Requests that counting has cost.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.asked = 0
        self._offset = 0
        self._known: dict[str, int] = {}
        self._form: Callable[[Server, str], object] | None = None
        self.how = "usage of requests for one token"
        # A tokenizer does not know what a chat's template adds, and what it joins.
        for name, form in FORMS.items() if server.options.api == "completions" else ():
            if count_in(form(server, PROBE)) is not None:
                self.how, self._form = name, form
                break

    @property
    def cheap(self) -> bool:
        """Whether counting costs no prefill."""
        return self._form is not None

    def __call__(self, prompt: str) -> int:
        """Tokens of a whole prompt.

        Raises
        ------
        Trouble
            If the server does not say.
        """
        if prompt in self._known:
            return self._known[prompt]
        self.asked += 1
        if self._form is not None:
            found = count_in(self._form(self.server, prompt))
            if found is None:
                raise Trouble(f"server: expected a count of {self.how}, found none")
            return found + self._offset
        [reply] = self.server.ask([prompt], 1, stream=False)
        if reply.prompt_tokens is None:
            raise Trouble(
                "server: expected usage.prompt_tokens or a /tokenize, found neither: the length of "
                "a prompt cannot be known"
            )
        self._known[prompt] = reply.prompt_tokens
        return reply.prompt_tokens

    def learn(self, prompt: str, tokens: int) -> None:
        """A real request had so many prompt tokens."""
        if self._form is None:
            self._known[prompt] = tokens
        else:
            self._offset += tokens - self(prompt)
