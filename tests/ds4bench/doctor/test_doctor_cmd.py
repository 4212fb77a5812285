"""The command, what a sweep stores, and what `compare` makes of it."""

from __future__ import annotations

import copy
import json

import pytest
from click.testing import CliRunner

from ds4bench import cli
from ds4bench.commands import doctor as command
from ds4bench.compare.conditions import unfit_notes
from ds4bench.doctor import probe
from ds4bench.doctor.facts import Facts
from ds4bench.doctor.judge import judge
from ds4bench.records.files import read_rows
from engine.tooling import exits
from tests.ds4bench.doctor.test_judge import DATA
from tests.ds4bench.speed_rows import sweep, write_journal


def run(*arguments):
    result = CliRunner().invoke(cli.main, [*arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def quiet(monkeypatch):
    """A machine on which nothing else runs, and whose memory is read at once."""
    monkeypatch.setattr(probe, "busy_pct", lambda wait_s=0: 0.0)
    monkeypatch.setattr(probe, "read_rates", lambda threads: [2e10, 2.1e10 + threads])
    monkeypatch.setattr(probe, "quota_of", lambda root: (None, None))


@pytest.mark.parametrize("name", ["workstation", "laptop-on-battery"])
@pytest.mark.parametrize("value", [None, "x", -1, float("nan"), [], {}, True])
def test_facts_of_other_hands_are_judged_or_refused_by_name(tmp_path, name, value):
    """Each field in turn is of another type or missing; a verdict of wrong types is no verdict."""
    whole = json.loads((DATA / f"{name}.json").read_text())
    path = tmp_path / "facts.json"
    for group, fields in whole["facts"].items():
        for field in fields if isinstance(fields, dict) else ():
            record = copy.deepcopy(whole)
            if value is None:
                del record["facts"][group][field]
            else:
                record["facts"][group][field] = value
            path.write_text(json.dumps(record))
            result = run("doctor", "--facts", str(path))
            assert "nan" not in result.stdout.split()
            if result.exit_code not in (exits.OK, exits.INCOMPARABLE):
                assert result.exit_code == exits.ERROR and str(path) in result.stderr, field


def test_doctor_prints_a_line_for_each_fact_and_what_to_do():
    result = run("doctor", "--facts", str(DATA / "gb10-before-ota2604.json"))
    assert result.exit_code == exits.INCOMPARABLE
    assert "unfit     bios                GX10DGX.0104.2026.0326.1657" in result.stdout
    assert "expected GX10DGX.0105.2026.0505 or later" in result.stdout
    assert result.stdout.endswith("this machine: unfit\n")
    assert run("doctor", "--facts", str(DATA / "gb10-after-ota2604.json")).exit_code == exits.OK
    named = run("doctor", "--facts", str(DATA / "m3-ultra.json"), "--machine", "h100")
    assert named.exit_code == exits.OK and "H100" in named.stdout


def test_doctor_of_this_machine(quiet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("doctor", "--nano", "q8", "--seconds", "0", "--json", "-o", "d.json")
    record = json.loads(result.stdout)
    assert json.loads((tmp_path / "d.json").read_text()) == record
    assert record["schema"] == "ds4bench.doctor"
    assert record["facts"]["model"]["path"].startswith("nano-q8")
    assert "warming" not in record["facts"]
    again = run("doctor", "--facts", "d.json", "--record", "d.json", "--force")
    assert again.exit_code == result.exit_code
    assert json.loads((tmp_path / "d.json").read_text())["findings"] == record["findings"]


def test_doctor_loads_memory_with_the_threads_that_it_was_given(quiet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.gguf").write_bytes(b"x" * 5000)
    line = "doctor -m m.gguf --seconds 0.001 -t 3 --backend cpu --json"
    facts = json.loads(run(*line.split()).stdout)["facts"]
    assert facts["memory"]["threads"] == 3 and max(facts["memory"]["rates"]) == 2.1e10 + 3
    assert facts["warming"]["seconds"] >= 0.001 and facts["model"]["size"] == 5000


def test_doctor_of_a_device_that_is_chosen(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    seen = []

    def examined(model, seconds, backend, threads, ordinal):
        seen.append((seconds, backend, ordinal))
        return Facts()

    monkeypatch.setattr(command, "examined", examined)
    assert run("doctor", "--cuda", "--device", "2").exit_code == exits.OK
    assert seen == [(60.0, "cuda", 2)]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--facts", "none.json"], exits.ERROR, "none.json: expected a readable file"),
        (["--facts", "bad.json"], exits.ERROR, "bad.json: expected JSON"),
        (["--facts", "other.json"], exits.ERROR, "expected schema 'ds4bench.doctor'"),
        (["--facts", "newer.json"], exits.ERROR, "expected version 1, found 2"),
        (["-m", "none.gguf"], exits.USAGE, "-m: expected a file"),
        (["--machine", "abacus"], exits.USAGE, "--machine"),
        (["-o", "bad.json", "--facts", "bad.json"], exits.USAGE, "--record: expected a new file"),
    ],
)
def test_doctor_refuses(tmp_path, monkeypatch, arguments, code, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "newer.json").write_text('{"schema": "ds4bench.doctor", "version": 2}')
    result = run("doctor", *arguments)
    assert result.exit_code == code and text in result.stderr


def test_a_sweep_stores_the_facts_and_says_what_is_unfit(bench, monkeypatch):
    monkeypatch.setattr("ds4bench.sweep.circumstances.busy_pct", lambda wait_s: 77.0)
    line = "--ctx-start 100 --ctx-max 200 --step-incr 100 -n 4 --out o"
    result = bench(*line.split())
    assert result.exit_code == exits.OK
    assert "warning: doctor: other work: 77 % of all cores; end it, or wait" in result.stderr
    record = read_rows(bench.folder / "o").environment["doctor"]
    assert Facts.from_record(record["facts"], "here").load.busy_pct == 77.0
    assert record["facts"]["model"]["path"] == "m.gguf"
    told = run("doctor", "--facts", str(bench.folder / "o"))
    assert told.exit_code == exits.INCOMPARABLE and "77 % of all cores" in told.stdout


def with_doctor(folder, facts, **kw):
    findings = [f.to_record() for f in judge(Facts.from_record(facts, "here"))]
    environment = {"doctor": {"facts": facts, "findings": findings}}
    return str(write_journal(folder, sweep(**kw), environment=environment))


@pytest.mark.parametrize(
    ("name", "part", "field", "other"),
    [
        ("firmware", "device", "vbios", "9A.0B.1E"),
        ("firmware", "board", "bios", "GX10DGX.0104"),
        ("power_limit", "device", "power_limit_w", 100.0),
        ("cpu_quota", "processor", "quota_cores", 4.0),
        ("governor", "processor", "governor", "powersave"),
        ("power_source", "board", "on_battery", True),
        ("huge_pages", "memory", "huge_pages", "never"),
    ],
)
def test_compare_refuses_across_facts_that_matter_and_says_which(
    tmp_path, name, part, field, other
):
    facts = {
        "board": {"bios": "GX10DGX.0105", "on_battery": False},
        "device": {"vbios": "9A.0B.25", "power_limit_w": 140.0},
        "processor": {"governor": "performance"},
        "memory": {"huge_pages": "madvise"},
    }
    changed = copy.deepcopy(facts)
    changed[part][field] = other
    base = with_doctor(tmp_path / "base", facts)
    same = with_doctor(tmp_path / "same", facts, seed=1)
    head = with_doctor(tmp_path / "head", changed, seed=1)
    assert run("compare", base, same).exit_code == exits.OK
    refused = run("compare", base, head)
    assert refused.exit_code == exits.INCOMPARABLE
    assert f"{name}: expected" in refused.stdout and str(other) in refused.stdout
    assert run("compare", base, head, "--allow", name).exit_code == exits.OK


def test_a_record_without_the_doctor_is_compared_as_before(tmp_path):
    old = str(write_journal(tmp_path / "old", sweep()))
    new = with_doctor(tmp_path / "new", {"board": {"bios": "1"}}, seed=1)
    assert run("compare", old, new).exit_code == exits.OK


def test_compare_says_that_a_machine_was_unfit(tmp_path):
    facts = {"processor": {"usable_cores": 2}, "load": {"busy_pct": 90.0}}
    base = with_doctor(tmp_path / "base", facts)
    head = with_doctor(tmp_path / "head", facts, seed=1)
    result = run("compare", base, head)
    assert "base: the machine was unfit: other work: 90 % of all cores" in " ".join(
        result.stdout.split()
    )
    quiet = {"doctor": {"findings": [{"name": "swap", "verdict": "suspect"}]}}
    bad = {"doctor": {"findings": [{"name": "other work", "verdict": "unfit", "found": "x"}]}}
    assert unfit_notes("a", [quiet, {}]) == unfit_notes("a", [quiet]) == []
    [note] = unfit_notes("a", [bad, quiet, bad])
    assert note.startswith("a: the machine was unfit in 2 of 3 sweeps: other work (")
