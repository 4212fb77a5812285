"""`ds4-bench export`: the same figures in another file, and with --public nobody and no place."""

from __future__ import annotations

import getpass
import socket

import pytest

from ds4bench.cli import main
from ds4bench.records.files import read_rows
from engine.tooling.exits import OK, run_program
from tests.ds4bench.speed_rows import sweep, write_journal

KEY = "sk-proj-0123456789abcdefghij"
USER, HOST = "annalena", "annas-strix"
WORDS = "the words of my own system prompt"
TELLING = (
    USER, HOST, KEY, WORDS, "/home", "/data", "192.168.7.9", "GPU-0a1b2c3d", "0123SERIAL",
    "gguf-folder", "lab.example.org", "@example",
)  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "gethostname", lambda: f"{HOST}.lab")
    monkeypatch.setattr(getpass, "getuser", lambda: USER)
    path = f"/home/{USER}/gguf-folder/m.gguf"
    environment = {
        "cpu": {"name": "Some CPU", "usable_cores": 8, "serial": "0123SERIAL"},
        "gpu": {"name": "Some GPU", "uuid": "GPU-0a1b2c3d-0000-1111-2222-333344445555",
                "serial": "0123SERIAL", "driver": "580"},
        "model": [{"path": path, "sha256": "ab"}],
        "model_name": f"m of {USER}",
        "hostname": HOST,
        "invented_later": f"{HOST}",
        "command": ["ds4-bench", "-m", path, "-sys", WORDS, "--api-key", KEY],
        "server": {"software": "x", "url": "http://192.168.7.9:8000"},
        "doctor": {"facts": {"model": {"path": path}, "board": {"product": "box"}},
                   "findings": [{"name": "file", "found": f"{path} on {HOST}"}]},
        "engine": {"note": f"loaded from /data/x/{USER} by ann@example.org"},
    }  # fmt: skip
    rows = sweep(runs=2)
    rows += sweep(
        runs=1, ctx=(65536,), modes=("plain",), status="error", run=9,
        message=f"{path}: refused by http://u:p@lab.example.org/v1?token={KEY} (Bearer {KEY})",
    )  # fmt: skip
    folder = tmp_path / "run"
    write_journal(folder, rows, environment)
    return folder


def call(*arguments) -> int:
    return run_program(main, "ds4-bench", [str(one) for one in arguments])


@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".csv"])
def test_a_public_file_tells_nothing_and_reads_back(run, tmp_path, ending, capsys):
    out = tmp_path / f"posted{ending}"
    assert call("export", run, "--public", "-o", out) == OK
    data = out.read_bytes()
    assert not [word for word in TELLING if word.encode() in data]
    found, ours = read_rows(out), read_rows(run)
    told = repr(found.environment) + repr(found.rows)
    assert not [word for word in TELLING if word in told]
    assert [row.place for row in found.rows] == [row.place for row in ours.rows]
    if ending != ".csv":
        assert [row.gen_s for row in found.rows] == [row.gen_s for row in ours.rows]
        assert found.environment["cpu"]["name"] == "Some CPU"
        assert found.environment["model"][0]["sha256"] == "ab"
        assert found.environment["gpu"] == {"name": "Some GPU", "driver": "580"}
        assert call("compare", run, out) in (0, 7)


def test_without_the_option_the_circumstances_stay(run, tmp_path, capsys):
    out = tmp_path / "whole.jsonl"
    assert call("export", run, "-o", out) == OK
    assert read_rows(out).environment == read_rows(run).environment
    assert read_rows(out).rows == read_rows(run).rows


def test_other_endings_and_files_that_are_there_are_refused(run, tmp_path, capsys):
    (tmp_path / "a.csv").touch()
    assert call("export", run, "-o", "a.txt") == 2
    assert "--output: expected a name ending in .jsonl" in capsys.readouterr().err
    assert call("export", run, "-o", "a.csv") == 2
    assert "--output: expected a new file" in capsys.readouterr().err


def test_force_keeps_the_old_file(run, tmp_path, capsys):
    (tmp_path / "a.csv").write_text("mine")
    assert call("export", run, "-o", "a.csv", "--force") == OK
    assert [path.read_text() for path in tmp_path.glob("a.csv.old-*")] == ["mine"]
