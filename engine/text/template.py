"""A model file's own chat template, rendered as untrusted code: sandbox, worker, clock, caps."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import select
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from engine.errors import TextError
from engine.text import chat, special
from engine.text.encoding import FIRST, NO_THINK, Encoding
from engine.text.tokenizer import Span

MAX_SOURCE = 1 << 20
_START_S = 30.0
_WORKER = Path(__file__).with_name("template_worker.py")
# Enough to find the interpreter and its libraries; nothing else of ours is a template's business.
_PASSED = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class ChatTemplate:
    """Renders conversations with one Jinja template in a child process.

    Start-up of the child (some tens of milliseconds) happens on first use and after a
    rendering that had to be stopped. Use as a context manager, or call `close`.

    Parameters
    ----------
    source : str
        `tokenizer.chat_template` of the file.
    timeout : float
        Seconds that compiling, and each rendering, may take.
    bos, eos : str
        What the template gets as `bos_token` and `eos_token`.

    Attributes
    ----------
    sha256 : str
        Of the source; records carry it, since another template is another prompt.
    """

    def __init__(
        self,
        source: str,
        timeout: float = 2.0,
        bos: str = special.BOS,
        eos: str = special.EOS,
    ) -> None:
        if len(source) > MAX_SOURCE:
            raise TextError(
                f"tokenizer.chat_template: expected at most {MAX_SOURCE} characters, "
                f"found {len(source)}"
            )
        self.sha256 = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        self._source = source
        self._timeout = timeout
        self._names = {"bos_token": bos, "eos_token": eos}
        self._child: subprocess.Popen[bytes] | None = None

    def render(
        self,
        messages: Sequence[chat.Message],
        think: str,
        ctx: int,
        encoding: Encoding = FIRST,
    ) -> list[Span]:
        """Spans of a conversation, the assistant's opening included.

        Each content is replaced by 128 random bits, so that what the template wrote and what
        people wrote can be told apart; a second rendering with the contents themselves must
        then agree. A template may trim content; one that rewrites, repeats or drops it is
        refused, because control tokens could hide in the difference.

        Parameters
        ----------
        messages : sequence of Message
            `reasoning` is not passed on.
        think : str
            Becomes `thinking`, `enable_thinking` and `reasoning_effort`; which efforts
            are told is the encoding's.
        ctx, encoding
            As in `engine.text.chat.render_chat`.

        Raises
        ------
        TextError
            If the template fails, exceeds its time, memory or output, or hides content.
        OptionError
            If there is no such think mode.
        """
        mode = encoding.effective(think, ctx)
        effort = mode if mode in encoding.told else None
        marks = [secrets.token_hex(16) for _ in messages]
        contents = [message.content for message in messages]
        roles = [message.role for message in messages]
        # Empty contents stay empty: templates branch on them, and there is nothing to mark.
        shown = [mark if content else "" for mark, content in zip(marks, contents)]
        marked, plain = self._ask(
            {
                "variants": [
                    self._variables(roles, shown, mode, effort),
                    self._variables(roles, contents, mode, effort),
                ]
            }
        )
        used = {mark: content for mark, content in zip(marks, contents) if content}
        for mark in used:
            if marked.count(mark) != 1:
                raise _refused(f"every content once, found one {marked.count(mark)} times")
        for stripped in (False, True):
            spans = _cut(marked, used, stripped)
            if "".join(span.text for span in spans) == plain:
                return spans
        raise _refused("content as it was given, found it rewritten")

    def _variables(
        self, roles: list[str], contents: list[str], mode: str, effort: str | None
    ) -> dict[str, Any]:
        variables: dict[str, Any] = {
            "messages": [{"role": r, "content": c} for r, c in zip(roles, contents)],
            "add_generation_prompt": True,
            "thinking": mode != NO_THINK,
            "enable_thinking": mode != NO_THINK,
            **self._names,
        }
        if effort is not None:
            variables["reasoning_effort"] = effort
        return variables

    def _ask(self, request: dict[str, Any]) -> list[str]:
        if self._child is None:
            self._start()
        return self._exchange(request, self._timeout)

    def _start(self) -> None:
        environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
        self._child = subprocess.Popen(
            [sys.executable, "-I", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            bufsize=0,
        )
        self._exchange(None, _START_S)
        try:
            self._exchange({"source": self._source}, self._timeout)
        except TextError:
            self.close()
            raise

    def _exchange(self, request: dict[str, Any] | None, timeout: float) -> list[str]:
        """Send a request, if any, and wait for one reply; kills a child that is late."""
        assert self._child is not None
        deadline = time.monotonic() + timeout
        try:
            if request is not None:
                body = json.dumps(request).encode("ascii")
                self._write(struct.pack(">I", len(body)) + body, deadline)
            (size,) = struct.unpack(">I", self._read(4, deadline))
            reply = json.loads(self._read(size, deadline))
        except TimeoutError:
            self.close()
            raise _refused(f"a result within {timeout:g} s, found none") from None
        except (EOFError, OSError):
            self.close()
            raise _refused("a result, found that its process had ended") from None
        if "error" in reply:
            raise _refused(f"text, found {reply['error']!r}")
        return reply["texts"]

    def _write(self, data: bytes, deadline: float) -> None:
        assert self._child is not None and self._child.stdin is not None
        pipe = self._child.stdin.fileno()
        os.set_blocking(pipe, False)
        view = memoryview(data)
        while view:
            _wait([], [pipe], deadline)
            view = view[os.write(pipe, view) :]

    def _read(self, n: int, deadline: float) -> bytes:
        assert self._child is not None and self._child.stdout is not None
        pipe = self._child.stdout.fileno()
        parts: list[bytes] = []
        while n:
            _wait([pipe], [], deadline)
            part = os.read(pipe, min(n, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            n -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """End the child process, if there is one."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()

    def __enter__(self) -> ChatTemplate:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _wait(readers: list[int], writers: list[int], deadline: float) -> None:
    ready = select.select(readers, writers, [], max(0.0, deadline - time.monotonic()))
    if not any(ready):
        raise TimeoutError


def _refused(detail: str) -> TextError:
    return TextError(f"tokenizer.chat_template: expected {detail}")


def _cut(marked: str, contents: dict[str, str], stripped: bool) -> list[Span]:
    """Spans of a marked rendering with the contents, trimmed or not, put back."""
    if not contents:
        return [Span(marked, trusted=True)]
    spans = []
    for piece in re.split(f"({'|'.join(contents)})", marked):
        if piece in contents:
            text = contents[piece]
            spans.append(Span(text.strip() if stripped else text))
        else:
            spans.append(Span(piece, trusted=True))
    return [span for span in spans if span.text]
