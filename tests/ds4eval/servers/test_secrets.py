"""A server that repeats the key, in errors and in replies: nothing that is written or shown has it.

And what is written for the owner alone: files with replies are 0600 in a folder of 0700.
"""

from __future__ import annotations

import os
import stat

import pytest

pytest.importorskip("httpx")

from engine.tooling.results import redact
from tests.ds4eval.servers.odd_server import OddServer, delta
from tests.ds4eval.test_run import call

KEY = "sesame-open-0123456789"


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(redact, "_secrets", set())
    one = OddServer()
    yield one
    one.close()


def ask(server, *more) -> int:
    return call("--suite", "practice", "--limit", "2", "--base-url", server.url, "--plain",
                "--out", "run", *more)  # fmt: skip


def everything(folder) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize(
    "step",
    [
        (400, f"unknown key {KEY}"),
        (401, {"headers": {"authorization": f"Bearer {KEY}"}}),
        [delta("stop", content=f"You sent Bearer {KEY}. Answer: 1")],
        [delta(content="x " + KEY[:9]), delta("stop", content=KEY[9:] + " Answer: 1")],
        [delta(f"stop {KEY}", content="Answer: 1")],
        [{"error": {"message": f"key {KEY}", "code": 400}}],
    ],
    ids=["message", "headers", "reply", "pieces", "finish", "stream"],
)
def test_a_key_that_a_server_repeats_is_kept_nowhere(server, tmp_path, capsys, step):
    server.script = [step] * 20
    server.models = (200, {"data": [{"id": f"m-{KEY}", "owned_by": KEY}]})
    ask(server, "--max-retries", "0", "--trace", "trace.txt")
    shown = capsys.readouterr()
    assert KEY not in shown.out + shown.err
    stored = everything(tmp_path)
    assert KEY.encode() not in stored and len(stored) > 1000


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_replies_are_for_their_owner(server, tmp_path, capsys):
    before = os.umask(0o022)
    try:
        server.script = [[delta("stop", content="Answer: 1")]] * 4
        assert ask(server, "--trace", "trace.txt") == 0
        assert call("export", "run", "--with-text", "-o", "log.json") == 0
        assert call("export", "run", "--with-text", "--format", "lm-eval", "-o", "lm") == 0
        assert call("view", "run", "--html", "page.html") == 0
    finally:
        os.umask(before)
    folders = [tmp_path / "run", tmp_path / "lm"]
    files = [tmp_path / name for name in ("trace.txt", "log.json", "page.html")]
    files += [path for folder in folders for path in folder.iterdir()
              if path.suffix in (".jsonl", ".json", ".csv", ".parquet", ".txt")]  # fmt: skip
    assert {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in files} == {
        path.name: "0o600" for path in files
    }
    assert [oct(stat.S_IMODE(path.stat().st_mode)) for path in folders] == ["0o700"] * 2


def test_paths_are_kept_only_when_asked(server, tmp_path, capsys):
    server.script = [[delta("stop", content="Answer: 1")]] * 8
    trace = tmp_path / "trace.txt"
    assert ask(server, "--trace", str(trace)) == 0
    assert str(tmp_path).encode() not in everything(tmp_path / "run")
    assert ask(server, "--trace", str(trace), "--record-paths", "--force") == 0
    manifest = (tmp_path / "run" / "manifest.json").read_text()
    assert "command" in manifest


def test_credentials_in_a_body_are_refused(server, capsys):
    assert ask(server, "--extra-body", f'{{"api_key": "{KEY}"}}') == 2
    shown = capsys.readouterr()
    assert "--extra-body: expected no credentials" in shown.err and KEY not in shown.err
