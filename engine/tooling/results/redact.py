"""What a record may say of the one who made it: no secrets, and of paths the last name.

Records are sent on, pasted and posted. Credentials never belong in one, wherever they came from:
typed into a command line, part of an address, echoed by a server. Paths name people and machines;
what a reader needs of them is the file's name. `recordable` is for everything that is written
down, `public` for what anybody may see. The module knows no record's fields but those below.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import socket
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


class Stream:
    """`scrubbed` for a text that comes in pieces: what may be the beginning of a secret waits."""

    def __init__(self) -> None:
        self._held = ""

    def take(self, piece: str) -> str:
        """What may be shown now."""
        text = scrubbed(self._held + piece)
        waiting = max((_overlap(text, secret) for secret in _secrets), default=0)
        self._held = text[len(text) - waiting :]
        return text[: len(text) - waiting]

    def end(self) -> str:
        """What is left when nothing follows."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, secret: str) -> int:
    """Characters at the end of a text that are the beginning of a secret."""
    most = min(len(text), len(secret) - 1)
    return next((n for n in range(most, 0, -1) if text.endswith(secret[:n])), 0)


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


# Fields that say who or where, whatever they hold.
_PERSONAL = re.compile(
    r"(?:host|hostname|node|user|username|login|owner|serial|serial_number|uuid|gpu_uuid|mac|"
    r"pci_bus_id|machine_id|ip|address|base_url|command|argv|cwd|home)",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"\b([a-z][a-z0-9+.-]{1,20}://)[^\s/\"'<>]+", re.IGNORECASE)
_MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_IP = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?::\d{1,5})?(?![\d.])")
_UUID = re.compile(r"\b(?:GPU-)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)
_LEAST_NAME = 3  # letters of a user's or a machine's name that is looked for


def public(value: Any) -> Any:
    """JSON values as anybody may see them.

    `recordable`, and without fields that say who or where, without hosts, addresses, serial
    numbers, and the names of this user and this machine wherever they stand.
    """
    return _public(recordable(value), _own_names())


def public_text(text: str) -> str:
    """One text as `public` leaves it."""
    return _posted(plain_text(text), _own_names())


def _public(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {
            _posted(name, names): _public(item, names)
            for name, item in value.items()
            if not _PERSONAL.fullmatch(name)
        }
    if isinstance(value, list):
        return [_public(item, names) for item in value]
    return _posted(value, names) if isinstance(value, str) else value


def _posted(text: str, names: Sequence[str]) -> str:
    text = _ADDRESS.sub(lambda found: found[1] + HIDDEN, text)
    for form in (_MAIL, _IP, _UUID):
        text = form.sub(HIDDEN, text)
    for name in names:
        text = re.sub(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", HIDDEN, text, flags=re.IGNORECASE)
    return text


def _own_names() -> list[str]:
    """This user's and this machine's names; those of every machine are none."""
    found = {socket.gethostname(), socket.gethostname().partition(".")[0]}
    with contextlib.suppress(OSError, KeyError, ImportError):
        found.add(getpass.getuser())
    found.add(os.path.basename(os.path.expanduser("~").rstrip("/\\")))
    common = {"root", "user", "localhost", "home", "admin", "ubuntu", "runner", "linux", "main"}
    return sorted(
        (n for n in found if len(n) >= _LEAST_NAME and n.lower() not in common),
        key=len,
        reverse=True,
    )
