"""`ds4-eval export --public`: in every format, nobody, no place and no text of the exam."""

from __future__ import annotations

import getpass
import json
import socket

import pytest

from ds4eval.cli import cli
from engine.tooling.exits import run_program
from tests.ds4eval.eval_runs import sample, write_run

KEY = "sk-proj-0123456789abcdefghij"
USER, HOST = "annalena", "annas-strix"
TEXTS = ("the text of a question", "the reply of a model", "a choice of the exam", "the title")
TELLING = (USER, HOST, KEY, "/home", "/data", "lab.example.org", "0123SERIAL", *TEXTS)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    monkeypatch.setattr(getpass, "getuser", lambda: USER)
    asked = {"title": TEXTS[3], "text": TEXTS[0], "choices": [TEXTS[2], "b", "c", "d"]}
    samples = [
        sample("GPQA Diamond", n, "pass" if n % 2 else "fail", question=asked,
               output=f"{TEXTS[1]} {n}</think>Answer: A", notes=[f"moved from /home/{USER}/x"])
        for n in range(1, 9)
    ]  # fmt: skip
    samples.append(
        sample("GPQA Diamond", 9, "", stop="error", question=asked,
               error=f"/data/y/{USER}: http://u:p@lab.example.org/?token={KEY} Bearer {KEY}")
    )  # fmt: skip
    config = {"model": {"name": f"/data/y/{USER}/m.gguf", "server": "http://lab.example.org:1/v1"}}
    folder = write_run(tmp_path / f"run-of-{USER}", samples, config)
    manifest = {
        "created": "2026-01-01T00:00:00Z",
        "command": ["ds4-eval", "--api-key", KEY],
        "environment": {"packages": {"numba": "1"}, "hostname": HOST, "serial": "0123SERIAL"},
        "data": {"files": [{"path": f"/home/{USER}/a.csv"}]},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


FORMATS = {"inspect": "x.json", "junit": "x.xml", "eval-results": "x.yaml",
           "every-eval-ever": "x.json", "lm-eval": "folder"}  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_is_told(run, tmp_path, capsys, form):
    out = tmp_path / FORMATS[form]
    arguments = ["export", str(run), "--public", "--format", form, "-o", str(out)]
    status = run_program(cli, "ds4-eval", arguments)
    if status and form == "eval-results":
        pytest.skip("only whole published sets have this form")
    assert status == 0, capsys.readouterr().err
    files = [out] if out.is_file() else list(out.iterdir())
    data = b"".join(path.read_bytes() for path in files)
    assert len(data) > 500
    assert [word for word in TELLING if word.encode() in data] == []


def test_public_text_is_a_contradiction(run, capsys):
    arguments = ["export", str(run), "--public", "--with-text", "-o", "x.json"]
    assert run_program(cli, "ds4-eval", arguments) == 2
    assert "--public: expected without --with-text" in capsys.readouterr().err
