"""Nothing that is there is overwritten: it is refused, or set aside where --force is given."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from ds4bench import cli
from ds4bench.commands import ab, gpu
from ds4bench.records.csv_text import to_csv
from engine.errors import OptionError
from engine.tooling import exits
from tests.ds4bench.speed_rows import sweep, write_journal


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_bytes(to_csv(sweep(runs=1), upstream_only=False))
    write_journal(tmp_path / "base", sweep())
    write_journal(tmp_path / "head", sweep(seed=1))
    return tmp_path


def run(*arguments):
    result = CliRunner().invoke(cli.main, [*arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.mark.parametrize(
    ("arguments", "file", "option"),
    [
        (["plot", "a.csv", "-o", "x.svg"], "x.svg", "-o"),
        (["plot", "a.csv", "--out", "x.svg"], "x.svg", "-o"),
        (["plot", "a.csv"], "a.svg", "-o"),
        (["report", "head", "--out", "r"], "r/rows.csv", "--out"),
        (["compare", "base", "head", "--markdown", "x.md"], "x.md", "--markdown"),
        (["compare", "base", "head", "--json", "x.json"], "x.json", "--json"),
        (["compare", "base", "head", "--junit", "x.xml"], "x.xml", "--junit"),
        (["ab", "--junit", "x.xml"], "x.xml", "--junit"),
        (["gpu", "--out", "g"], "g/steps.json", "--out"),
        (["gpu", "--out", "g"], "g/sweep/rows.jsonl", "--out"),
    ],
)
def test_a_file_that_is_there_is_refused_before_anything_is_read(folder, arguments, file, option):
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    result = run(*arguments)
    assert result.exit_code == exits.USAGE, result.output
    assert f"{option}: expected a new file" in result.stderr and "--force" in result.stderr
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (["plot", "a.csv", "-o", "x.svg", "--force"], "x.svg"),
        (["report", "head", "--out", "r", "--force"], "r/rows.csv"),
        (["compare", "base", "head", "--markdown", "x.md", "--force"], "x.md"),
    ],
)
def test_force_keeps_what_was_there(folder, arguments, file):
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    assert run(*arguments).exit_code == exits.OK
    assert path.read_text() != "mine"
    [kept] = path.parent.glob(path.name + ".old-*Z")
    assert kept.read_text() == "mine"


def test_the_report_of_one_run_is_refused_twice(folder):
    assert run("report", "head").exit_code == exits.OK
    again = run("report", "head")
    assert again.exit_code == exits.USAGE and "--force" in again.stderr
    assert run("report", "head", "--force").exit_code == exits.OK


def test_force_lets_gpu_measure_over_what_is_there(folder, monkeypatch):
    reached = []
    monkeypatch.setattr(gpu, "_run", lambda *arguments: reached.append(arguments))
    (folder / "g").mkdir()
    (folder / "g" / "steps.json").write_text("mine")
    assert run("gpu", "--out", "g", "--force").exit_code == exits.OK and len(reached) == 1
    assert (folder / "g" / "steps.json").read_text() == "mine", "set aside when there is a new one"


@pytest.mark.parametrize("option", ["--force", "--resume"])
def test_force_lets_ab_write_its_verdict_again(folder, monkeypatch, option):
    reached = []

    def opened(*arguments, **options):
        reached.append(arguments)
        raise OptionError("ab: no session here")

    monkeypatch.setattr(ab, "open_session", opened)
    (folder / "x.xml").write_text("mine")
    assert "no session here" in run("ab", "--junit", "x.xml", option).stderr and len(reached) == 1
