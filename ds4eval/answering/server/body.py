"""Makes the request for one question.

It knows what servers call things, and nothing of connections or replies.
"""

from __future__ import annotations

import hashlib

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
BUDGET = "max_tokens"


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
