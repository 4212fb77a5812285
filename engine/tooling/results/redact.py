"""What a record may say of the one who made it: no secrets, and of paths the last name.

Records are sent on, pasted and posted. Credentials never belong in one, wherever they came from:
typed into a command line, part of an address, echoed by a server. Paths name people and machines;
what a reader needs of them is the file's name. `recordable` is for everything that is written
down, `public` for what anybody may see. The module knows no record's fields but those below.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

T = TypeVar("T")

HIDDEN = "[hidden]"
LEAST_SECRET = 6  # characters; shorter ones (`none`, `x`) are placeholders and parts of words
_NAME = r"(?:api[-_]?key|access[-_]?key|token|password|passwd|secret|auth|authorization|bearer)"
_OF = r"(?:(?:x|my|hf|hub|api|access|auth|openai|client|server|user|refresh|id|session)[-_])*"
_SECRET_NAME = re.compile(rf"{_OF}{_NAME}", re.IGNORECASE)
_SECRET_QUERY = re.compile(rf"{_OF}{_NAME}|key|sig|signature|pwd|code", re.IGNORECASE)
_SCHEME = re.compile(r"\b(bearer|basic|token)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_HEADER = re.compile(
    r"((?:proxy-)?authorization|x-api-key|api-key|cookie)(\"?\s*[:=]\s*\"?)[^\s\"',;}]+(?:\s+[^\s\"',;}]+)?",
    re.IGNORECASE,
)
_KNOWN_FORMS = re.compile(r"\b(?:sk|hf|pk|ghp|gho|glpat|xox[bap])[-_][A-Za-z0-9_-]{16,}")
_URL = re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s\"'<>]+", re.IGNORECASE)
# Absolute, of at least two names; not the tail of an address, a rate or a relative path.
_PATH = re.compile(
    r"(?<![\w/:.~<-])(?:~[\w.-]*|[A-Za-z]:)?(?:[/\\][^\s/\\\"'<>|:;,()]+){2,}"
    r"|(?<![\w/:.~<-])~[\w.-]*/[^\s/\"'<>|:;,()]+"
)
_secrets: set[str] = set()


def remember_secret(text: str) -> None:
    """Name a credential of this process, which `scrubbed` then takes out of every text."""
    if len(text) >= LEAST_SECRET:
        _secrets.add(text)


def scrubbed(text: str) -> str:
    """A text without the credentials of this process, and without headers that carry any."""
    for secret in sorted(_secrets, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text


def without_secrets(value: T) -> T:
    """JSON values, every text `scrubbed`: for what a server said."""
    found: Any = value
    if isinstance(found, dict):
        found = {scrubbed(str(name)): without_secrets(item) for name, item in found.items()}
    elif isinstance(found, list):
        found = [without_secrets(item) for item in found]
    elif isinstance(found, str):
        found = scrubbed(found)
    return cast("T", found)


def without_credentials(text: str) -> str:
    """`scrubbed`, and without what has the form of a credential: headers, keys, parts of URLs."""
    text = scrubbed(text)
    text = _URL.sub(lambda found: safe_address(found[0]), text)
    text = _HEADER.sub(lambda found: f"{found[1]}{found[2]}{HIDDEN}", text)
    text = _SCHEME.sub(lambda found: f"{found[1]} {HIDDEN}", text)
    return _KNOWN_FORMS.sub(HIDDEN, text)


def is_secret_name(name: str) -> bool:
    """Whether an option, a header or a field of this name holds a credential."""
    return bool(_SECRET_NAME.fullmatch(name))


def safe_address(url: str) -> str:
    """An address without a user's name and password, and without values that name a credential."""
    try:
        parts = urlsplit(url)
        netloc = parts.netloc.rpartition("@")[2]
        query = parts.query
        if query:
            pairs = parse_qsl(query, keep_blank_values=True)
            if any(_SECRET_QUERY.fullmatch(name) for name, _ in pairs):
                kept = [(n, HIDDEN if _SECRET_QUERY.fullmatch(n) else v) for n, v in pairs]
                query = urlencode(kept, safe="[]")
        return urlunsplit((parts.scheme, netloc, parts.path, query, parts.fragment))
    except ValueError:
        return HIDDEN


def safe_arguments(words: Sequence[str], *, paths: bool = False) -> list[str]:
    """A command line as it may be stored.

    Parameters
    ----------
    words : sequence of str
    paths : bool
        Keep whole paths.
    """
    found: list[str] = []
    hide_next = False
    for word in words:
        option, equals, _ = word.partition("=")
        secret = option.startswith("-") and is_secret_name(option.lstrip("-"))
        if hide_next:
            found.append(HIDDEN)
        elif secret and equals:
            found.append(f"{option}={HIDDEN}")
        else:
            found.append(without_credentials(word) if paths else plain_text(word))
        hide_next = secret and not equals and not hide_next
    return found


def plain_text(text: str) -> str:
    """A text without credentials, and with the last name of each absolute path."""
    text = without_credentials(text)
    whole = os.path.isabs(text) or text.startswith("~")
    if whole and "\n" not in text and len(text) < 4096:
        return _last_name(text)
    return _PATH.sub(lambda found: _last_name(found[0]), text)


def _last_name(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] or path[:1]


def recordable(value: Any, *, paths: bool = False) -> Any:
    """JSON values as they may be stored; see `plain_text`.

    Parameters
    ----------
    value : JSON value
        Not changed itself.
    paths : bool
        Keep whole paths, because the user asked for them.
    """
    if isinstance(value, dict):
        return {
            name: HIDDEN
            if isinstance(item, str) and item and is_secret_name(str(name))
            else safe_arguments(item, paths=paths)
            if name == "command" and isinstance(item, list)
            else recordable(item, paths=paths)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [recordable(item, paths=paths) for item in value]
    if isinstance(value, str):
        return without_credentials(value) if paths else plain_text(value)
    return value
