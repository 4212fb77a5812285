"""Opens the HTTP client for a server and asks it for its models.

The key comes from the environment. It goes to the host of --base-url and nowhere else: redirects
are not followed, and a proxy could read it on the way to a server without TLS.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from engine.errors import BackendError, OptionError
from engine.tooling.openai.refusals import Refusal
from engine.tooling.results.redact import (
    is_secret_name,
    remember_secret,
    safe_address,
    scrubbed,
    without_secrets,
)

if TYPE_CHECKING:
    import httpx

CONNECT_S = 10.0


class Reached(Protocol):
    """What a client needs to know of a server."""

    @property
    def base_url(self) -> str:
        """Without a slash at the end."""
        ...

    @property
    def key_env(self) -> str:
        """Environment variable that holds the key."""
        ...

    @property
    def reply_timeout_s(self) -> float: ...


def check_address(url: str) -> None:
    """Refuse a --base-url that is no address of a server.

    Raises
    ------
    OptionError
    """
    if not url.startswith(("http://", "https://")):
        raise OptionError(f"--base-url: expected http:// or https://, found {safe_address(url)!r}")
    try:
        parts = urlsplit(url)
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole:
        raise OptionError(
            f"--base-url: expected http://HOST:PORT/PATH, found {safe_address(url)!r}"
        )
    if parts.query or parts.fragment:
        raise OptionError("--base-url: expected an address without ? and #, found one")
    if "@" in parts.netloc:
        raise OptionError(
            "--base-url: expected an address without a user's name or password, found one "
            "(--api-key-env names the variable that holds a key)"
        )


def check_extra(fields: Mapping[str, object]) -> None:
    """Refuse credentials among the fields of --extra-body, which records hold.

    Raises
    ------
    OptionError
    """
    for name, value in fields.items():
        if is_secret_name(name) and isinstance(value, str):
            raise OptionError(
                f"--extra-body: expected no credentials, found {name!r} "
                "(--api-key-env names the variable that holds a key)"
            )
        if isinstance(value, dict):
            check_extra(value)


def _require_httpx() -> None:
    """Refuse to go on without the optional package, which each function imports for itself."""
    if importlib.util.find_spec("httpx") is None:
        raise OptionError("--base-url: expected the package 'httpx' (extra 'remote'), found none")


def key_of(server: Reached) -> str:
    """The key for a server; '' without one.

    Raises
    ------
    OptionError
        If it holds what no header can.
    """
    key = os.environ.get(server.key_env, "").strip()
    if not key.isascii() or not (key.isprintable() or not key):
        raise OptionError(f"--api-key-env: expected ASCII text in {server.key_env}, found others")
    remember_secret(key)
    return key


def is_this_machine(host: str) -> bool:
    """Whether a name or address is the loopback of this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def place_of(server: Reached) -> str:
    """The server's address without the parts that may be secret."""
    url = urlsplit(server.base_url)
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{url.scheme}://{host}:{url.port or ''}{url.path}"


def key_notice(server: Reached) -> str:
    """What the user should hear about the key; '' for nothing."""
    url = urlsplit(server.base_url)
    if url.scheme == "http" and key_of(server) and not is_this_machine(url.hostname or ""):
        return f"the key of {server.key_env} goes to {url.hostname} unencrypted (http://)"
    return ""


def open_client(server: Reached, jobs: int = 1) -> httpx.Client:
    """An HTTP client with room for `jobs` connections at once.

    Connections are not kept: each request has its own, which can be cut without touching others.

    Raises
    ------
    OptionError
        If the package httpx is missing.
    """
    _require_httpx()
    import httpx

    key = key_of(server)
    url = urlsplit(server.base_url)
    private = url.scheme == "https" or not (key or is_this_machine(url.hostname or ""))
    return httpx.Client(
        base_url=server.base_url + "/",
        headers={"Authorization": f"Bearer {key}"} if key else {},
        # Silence is ended by the caller's limit; this one only frees a thread that was left.
        timeout=httpx.Timeout(server.reply_timeout_s + 60.0, connect=CONNECT_S),
        limits=httpx.Limits(max_connections=jobs + 1, max_keepalive_connections=0),
        follow_redirects=False,
        trust_env=private,
    )


# What servers say of a model that they list; the rest (permissions, paths) is left alone.
_SAID = ("owned_by", "created", "max_model_len", "meta", "aliases", "quantization")


def first_model(client: httpx.Client, server: Reached) -> tuple[str, dict[str, object]]:
    """Name of the first model that a server lists, and what it says of itself and of the model.

    Raises
    ------
    BackendError
        If it cannot be asked.
    """
    import httpx

    found: object
    try:
        response = client.get("models", timeout=httpx.Timeout(60.0, connect=CONNECT_S))
        if response.status_code != 200:
            headers = {name.lower(): value for name, value in response.headers.items()}
            refusal = Refusal(
                response.status_code, response.reason_phrase, headers, response.content
            )
            raise BackendError(
                f"--base-url: expected a list of models at {place_of(server)}/models, found "
                f"{refusal.trouble().message.partition('found ')[2]} (--api-model names one)"
            )
        listed = response.json()["data"][0]
        found = listed["id"]
        if isinstance(found, str) and found:
            said = {name: listed[name] for name in _SAID if listed.get(name)}
            software = response.headers.get("server", "")
            known = {**({"software": software} if software else {}), **said}
            return scrubbed(found), without_secrets(known)
        found = f"the name {found!r}"
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        found = f"{type(error).__name__}: {error}"
    raise BackendError(
        f"--base-url: expected a list of models at {place_of(server)}/models, found {found} "
        "(--api-model names one)"
    )
