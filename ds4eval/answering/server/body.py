"""Makes the request for one question, and adapts it to a server that refuses a field.

It knows what servers call things, and nothing of connections or replies.
"""

from __future__ import annotations

import hashlib
import re
import threading

from ds4eval.answering.effort import effort_of
from ds4eval.documents import Document
from ds4eval.plan import Job, ReplySettings
from ds4eval.questions.prompts import messages
from ds4eval.questions.question import Question
from engine.errors import OptionError
from engine.text import chat, special
from engine.text.encoding import FIRST, Encoding

# llama-cpp-python's server punishes repetition unless it is told not to (default 1.1).
NEUTRAL = {"repeat_penalty": 1.0}
# Without these there is no request; a server that refuses one of them cannot be asked.
NEEDED = ("model", "messages", "prompt")
BUDGET, BUDGET_TOO = "max_tokens", "max_completion_tokens"
_TOO_LARGE = re.compile(r"too (?:large|high|big)|at most|less than|exceed|<=", re.IGNORECASE)


def completion_prompt(question: Question, think: str, encoding: Encoding = FIRST) -> str:
    """Our rendering of a question as text, without BOS, which servers add.

    Raises
    ------
    OptionError
        If the question holds the text of a control token: a server would take it for one.
    """
    turns = [chat.Message(role, content) for role, content in messages(question)]
    for turn in turns:
        found = next((token for token in special.KNOWN if token in turn.content), None)
        if found is not None:
            raise OptionError(
                f"{question.key}: expected no control tokens for --api completions, found {found!r}"
            )
    spans = chat.render_chat(turns, think, encoding.max_ctx, encoding=encoding)
    return "".join(span.text for span in spans).removeprefix(special.BOS)


def body_of(
    job: Job,
    settings: ReplySettings,
    api: str,
    model: str,
    extra: Document | None = None,
    host: str = "",
) -> Document:
    """The request for one job.

    Options beyond OpenAI's (top_k, min_p) are sent only when they act: vLLM takes no top_k of 0.
    top_p is sent whenever tokens are drawn, because a server may have a default of its own. The
    seed is 31 bits of the job's own random stream.

    Parameters
    ----------
    extra : dict, optional
        The user's own fields (--extra-body), which win; a null leaves a field out.
    host : str
        Whom the request goes to: services differ in how they are asked to think.
    """
    s, effort = settings.sampling, effort_of(settings, model)
    body: Document = {
        "model": model,
        BUDGET: settings.budget.tokens,
        "temperature": s.temp,
        "stream": True,
        "stream_options": {"include_usage": True},
        **NEUTRAL,
    }
    if s.temp > 0:
        mixed = f"{s.seed}/{job.stream}".encode()
        body["seed"] = int.from_bytes(hashlib.sha256(mixed).digest()[:4], "big") >> 1
        body["top_p"] = s.top_p or 1.0
        if s.top_k > 0:
            body["top_k"] = s.top_k
        if s.min_p > 0:
            body["min_p"] = s.min_p
    if api == "completions":
        body["prompt"] = completion_prompt(job.question, effort.think, effort.encoding)
    else:
        body["messages"] = [{"role": r, "content": c} for r, c in messages(job.question)]
        body |= effort.fields(host)
    for name, value in (extra or {}).items():
        body.pop(name, None)
        if value is not None:
            body[name] = value
    return body


class Adaptation:
    """Fields that one server refused, once each; shared by all of its connections.

    Parameters
    ----------
    kept : collection of str
        Fields that the user named: these are never left out.
    """

    def __init__(self, kept: Document | None = None) -> None:
        self._kept = frozenset(kept or ())
        self._changed: dict[str, str] = {}  # field, or field.inner, to its new name; '' for none
        self._lock = threading.Lock()

    def apply(self, body: Document) -> tuple[Document, list[str]]:
        """The request as the server takes it, and what was changed for it."""
        with self._lock:
            changed = dict(self._changed)
        notes = []
        body = dict(body)
        for name, new in changed.items():
            outer, _, inner = name.partition(".")
            value = body.get(outer)
            if inner and isinstance(value, dict) and inner in value:
                body[outer] = {k: v for k, v in value.items() if k != inner}
            elif not inner and outer in body:
                body.pop(outer)
                if new:
                    body[new] = value
            else:
                continue
            notes.append(f"{name} sent as {new}" if new else f"{name} not sent")
        return body, notes

    def refused(self, said: str, body: Document) -> str | None:
        """What to do about a refusal that names a field of the request, in words; None: nothing.

        '' when another connection has dealt with the field since this request was sent.
        """
        name = self._named(said, body)
        if name is None:
            return None
        new = BUDGET_TOO if name == BUDGET else ""
        with self._lock:
            if name in self._changed:
                return ""
            self._changed[name] = new
        return f"the server refused {name}; it is " + (f"sent as {new}" if new else "not sent")

    def _named(self, said: str, body: Document) -> str | None:
        """The field of the request, or field.inner, that a message names first."""
        names = [name for name in body if name not in NEEDED and name not in self._kept]
        inner = [
            f"{name}.{key}"
            for name in names
            for value in [body[name]]
            if isinstance(value, dict)
            for key in value
        ]
        found = []
        for name in (*names, *inner):
            word = name.rpartition(".")[2]
            match = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", said)
            if match:
                # A field goes before what lies in another one.
                found.append((match.start(), "." in name, name))
        if not found:
            return None
        name = min(found)[2]
        if name in (BUDGET, BUDGET_TOO) and BUDGET_TOO not in said and _TOO_LARGE.search(said):
            return None  # it is the user's number that is refused, and not the field
        return None if name == BUDGET_TOO else name
