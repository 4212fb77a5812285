"""Tells what an answer that is no reply means: ask again, leave the question out, or give up.

Reads status, headers and text of a refusal; it knows neither requests nor connections.
"""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.tooling.openai.shapes import count_of
from engine.tooling.results.redact import safe_address, scrubbed

# Answers that another attempt may change, besides those from 500 on.
RETRIED = frozenset({408, 409, 425, 429})
NOT_RETRIED = frozenset({501, 505})
# What servers say of a prompt that is too long: OpenAI and vLLM, llama.cpp, SGLang, TGI, others.
_CONTEXT = re.compile(
    r"context[ _-]?(?:length|window|size)|maximum (?:model|sequence|allowed|input) length|"
    r"exceed_context|longer than the max|(?:prompt|input|request|messages?) (?:is |are )?too long|"
    r"too many (?:input |prompt )?tokens|inputs. tokens \+ .max_new_tokens",
    re.IGNORECASE,
)
_TITLE = re.compile(r"<(?:title|h1)[^>]{0,99}>(.{1,99}?)</", re.IGNORECASE | re.DOTALL)
SHOWN = 300


class Trouble(Exception):
    """An attempt that brought no reply.

    Attributes
    ----------
    message : str
        For people; 'expected X, found Y'.
    said : str
        What the server said, for those who look for names in it.
    retry : bool
        Another attempt may bring one.
    after_s : float or None
        Seconds that the server asks to wait.
    too_long : bool
        This question does not fit into the server's context.
    refused : bool
        The request was refused as it is; a field of it may be the cause.
    of_question : bool
        Other questions may fare better.
    costly : bool
        A reply, or much of it, had been written: few more attempts are worth that.
    """

    def __init__(
        self,
        message: str,
        said: str = "",
        *,
        retry: bool = False,
        after_s: float | None = None,
        too_long: bool = False,
        refused: bool = False,
        of_question: bool = True,
        costly: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.said = said
        self.retry = retry
        self.after_s = after_s
        self.too_long = too_long
        self.refused = refused
        self.of_question = of_question
        self.costly = costly


@dataclass(frozen=True, slots=True)
class Refusal:
    """An HTTP answer that is no reply."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes

    def trouble(self) -> Trouble:
        """What it means."""
        said = said_of(self.body)
        status = self.status
        message = f"server: expected status 200, found {status}"
        if 300 <= status < 400:
            # The key would go along to a host that nobody named.
            where = one_line(safe_address(self.headers.get("location", "another address")))
            message += f", which leads to {where} (name that address with --base-url)"
            return Trouble(message, said, of_question=False)
        message += f" {one_line(self.reason)}".rstrip() + (f": {said}" if said else "")
        return trouble_of(status, said, message, after_of(self.headers))


def trouble_of(status: int, said: str, message: str, after_s: float | None = None) -> Trouble:
    """What a status and the words beside it mean, wherever they stood."""
    too_long = status in (0, 400, 413, 422, 500) and bool(_CONTEXT.search(said))
    retry = not too_long and (
        status in RETRIED or (status >= 500 and status not in NOT_RETRIED) or status == 0
    )
    return Trouble(
        message,
        said,
        retry=retry,
        after_s=after_s,
        too_long=too_long or status == 413,
        refused=status in (400, 422),
        of_question=too_long or status in (0, 400, 413, 422) or status >= 500,
        costly=status == 0,
    )


def check_document(document: Mapping[str, Any]) -> None:
    """Refuse a document of a stream that reports an error in place of a part of the reply.

    Raises
    ------
    Trouble
    """
    error = document.get("error")
    if not error and document.get("object") != "error":
        return
    said = said_in(document)
    code = error.get("code") if isinstance(error, dict) else document.get("code")
    status = count_of(code) or 0
    status = status if 400 <= status < 600 else 0
    raise trouble_of(status, said, f"server: expected a reply, found the error {said}")


def said_of(body: bytes) -> str:
    """What a server's error says, on one short line; of a page its title."""
    text = body[:1_000_000].decode("utf-8", "replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        title = _TITLE.search(text)
        if title or "<html" in text.lower():
            text = title[1] if title else ""
        return one_line(text)
    return said_in(document)


def said_in(document: object) -> str:
    """The message in an error document, with the name of the parameter in front."""
    error = document
    if isinstance(error, dict):
        error = error.get("error") or error.get("detail") or error
    named = ""
    if isinstance(error, list):
        error = "; ".join(_violation(one) for one in error)
    if isinstance(error, dict):
        for key in ("code", "param", "type"):
            if isinstance(error.get(key), str):
                named = f"{error[key]} {named}".strip() if key == "param" else named
                if key != "param" and "context" in error[key]:
                    named = f"{named} {error[key]}".strip()
        message = error.get("message")
        error = message if isinstance(message, str) and message else error
    return one_line(f"{named}: {error}" if named and named not in str(error) else str(error))


def _violation(one: object) -> str:
    """One entry of what pydantic refuses: where it lies, and why."""
    if not isinstance(one, dict):
        return str(one)
    where = one.get("loc")
    parts = where if isinstance(where, list) else []
    return f"{'.'.join(map(str, parts))}: {one.get('msg', '')}"


def one_line(text: str) -> str:
    """Text without line breaks and control characters, short."""
    text = scrubbed(text)  # some servers repeat the request's headers
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return words if len(words) <= SHOWN else words[: SHOWN - 3] + "..."


def after_of(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date; None if it says neither."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", text):
            return float(text) * scale
        if text and scale == 1.0:
            try:
                date = email.utils.parsedate_to_datetime(text)
            except (TypeError, ValueError):
                return None
            return max(0.0, date.timestamp() - (time.time() if now is None else now))
    return None
