"""What may be written down: no credential wherever it came from, and of paths the last name."""

from __future__ import annotations

import json

import pytest

from engine.tooling.openai import client
from engine.tooling.openai.refusals import Refusal
from engine.tooling.results import redact
from engine.tooling.results.redact import (
    HIDDEN,
    plain_text,
    recordable,
    remember_secret,
    safe_address,
    safe_arguments,
    scrubbed,
    without_credentials,
)

KEY = "sesame-open-0123456789"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(redact, "_secrets", set())


@pytest.mark.parametrize(
    ("words", "stored"),
    [
        (["--api-key", KEY, "--ctx-max", "9"], ["--api-key", HIDDEN, "--ctx-max", "9"]),
        ([f"--api-key={KEY}"], [f"--api-key={HIDDEN}"]),
        (["--hf-token", KEY], ["--hf-token", HIDDEN]),
        (["--password", KEY, "-p", "x"], ["--password", HIDDEN, "-p", "x"]),
        (["--api-key-env", "MY_KEY"], ["--api-key-env", "MY_KEY"]),
        (["--gen-tokens", "128", "--tokens=9"], ["--gen-tokens", "128", "--tokens=9"]),
        (["--base-url", f"http://u:{KEY}@h:1/v1?token={KEY}&a=b"],
         ["--base-url", f"http://h:1/v1?token={HIDDEN}&a=b"]),
        (["-H", f"Authorization: Bearer {KEY}"], ["-H", f"Authorization: {HIDDEN}"]),
        (["--model", "/data/ann/m.gguf"], ["--model", "m.gguf"]),
        (["--model=/data/ann/m.gguf"], ["--model=m.gguf"]),
        (["--dataset", "aime25=/data/ann/a.csv"], ["--dataset", "aime25=a.csv"]),
        (["--ids", "@/data/ann/ids"], ["--ids", "@ids"]),
        (["--model", "~ann/m.gguf"], ["--model", "m.gguf"]),
        (["--model", "C:\\Users\\ann\\m.gguf"], ["--model", "m.gguf"]),
        (["--csv", "out/a.csv"], ["--csv", "out/a.csv"]),
        (["--filter", "source!=A/B"], ["--filter", "source!=A/B"]),
    ],
)  # fmt: skip
def test_a_command_line_tells_no_secret_and_no_place(words, stored):
    assert safe_arguments(words) == stored
    kept = safe_arguments(words, paths=True)
    assert KEY not in " ".join(kept)
    if not any(HIDDEN in word for word in stored):
        assert kept == words


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ann/a b.gguf", "a b.gguf"),
        ("/srv/x/m.gguf: expected magic, found 0", "m.gguf: expected magic, found 0"),
        ("cannot open '/srv/ann/m.gguf' (3)", "cannot open 'm.gguf' (3)"),
        ("12 tokens/s and/or more", "12 tokens/s and/or more"),
        ("http://host:80/v1/models", "http://host:80/v1/models"),
        ("Linux 6.1", "Linux 6.1"),
        ("ratio 3/4", "ratio 3/4"),
    ],
)
def test_of_a_path_the_last_name_is_kept(text, shown):
    assert plain_text(text) == shown
    assert recordable({"a": [text]}) == {"a": [shown]}
    assert recordable({"a": [text]}, paths=True) == {"a": [text]}


@pytest.mark.parametrize(
    "text",
    [
        f"authorization: Bearer {KEY}",
        f'{{"Authorization": "Bearer {KEY}"}}',
        f"x-api-key={KEY}",
        f"you sent Bearer {KEY}.",
        f"https://ann:{KEY}@host/x",
        f"https://host/x?api_key={KEY}",
        f"https://host/x?sig={KEY}#y",
        "key sk-proj-0123456789abcdefghij was refused",
    ],
)
def test_what_has_the_form_of_a_credential_goes(text):
    assert not {KEY, "sk-proj-0123456789abcdefghij"} & set(
        without_credentials(text).replace('"', " ").replace("=", " ").split()
    )
    assert KEY not in without_credentials(text) and "abcdefghij" not in without_credentials(text)


def test_fields_that_are_named_so_are_hidden_and_counts_are_not():
    record = {"api_key": KEY, "token": KEY, "tokens": 3, "key": "row", "eos_token": "</s>"}
    assert recordable(record) == {**record, "api_key": HIDDEN, "token": HIDDEN}


def test_the_key_of_this_process_is_taken_out_of_every_text(monkeypatch, capsys):
    from engine.tooling.exits import say

    monkeypatch.setenv("SOME_KEY", KEY)

    class Server:
        base_url, key_env, reply_timeout_s = "http://a/v1", "SOME_KEY", 1.0

    assert client.key_of(Server()) == KEY
    assert scrubbed(f"a {KEY} b") == f"a {HIDDEN} b"
    say(f"server: {KEY}")
    assert KEY not in capsys.readouterr().err
    body = json.dumps({"error": {"message": f"bad key {KEY}"}}).encode()
    trouble = Refusal(401, f"No {KEY}", {}, body).trouble()
    assert KEY not in trouble.message + trouble.said and HIDDEN in trouble.message
    moved = Refusal(302, "", {"location": f"http://u:{KEY}@e/?token={KEY}"}, b"").trouble()
    assert KEY not in moved.message


@pytest.mark.parametrize("size", [1, 2, 5, 7, 40])
def test_a_key_that_comes_in_pieces_is_not_shown(size):
    remember_secret(KEY)
    stream = redact.Stream()
    text = f"a {KEY}{KEY} ses {KEY[:-1]} sesame"
    pieces = [stream.take(text[n : n + size]) for n in range(0, len(text), size)]
    shown = "".join([*pieces, stream.end()])
    assert shown == scrubbed(text) and KEY not in shown


def test_placeholders_are_no_secrets():
    remember_secret("none")
    assert scrubbed("none of it") == "none of it"


@pytest.mark.parametrize("url", ["http://[", "http://a:b@c:x/", "::"])
def test_a_broken_address_shows_nothing(url):
    assert "b@" not in safe_address(url)


@pytest.mark.parametrize("fields", [{"api_key": KEY}, {"a": {"Authorization": KEY}}])
def test_extra_fields_hold_no_credentials(fields):
    from engine.errors import OptionError

    with pytest.raises(OptionError, match="--extra-body: expected no credentials, found") as found:
        client.check_extra(fields)
    assert KEY not in str(found.value)
