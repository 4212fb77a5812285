"""`ds4-bench history`, and its exports read by the programs that they are for."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from click.testing import CliRunner

from ds4bench import cli
from ds4bench.compare import history
from ds4bench.compare.changes import Change
from ds4bench.compare.history import Past, Series
from ds4bench.compare.samples import Key
from ds4bench.compare.trends import bencher, change_text, otava, wanted
from ds4bench.records.files import read_rows
from ds4bench.report.page import Report, spark, to_summary
from ds4bench.report.trends import figure
from engine.tooling import exits
from tests.ds4bench.speed_rows import sweep, write_journal
from tests.ds4bench.trends.test_parts import run as result_of

# https://bencher.dev/bmf.json
BMF = {
    "type": "object",
    "patternProperties": {".+": {"type": "object", "patternProperties": {".+": {
        "type": "object",
        "properties": {n: {"type": "number"} for n in ("value", "lower_value", "upper_value")},
        "required": ["value"],
    }}}},
}  # fmt: skip


def run(*arguments):
    result = CliRunner().invoke(cli.main, ["history", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """16 commits; decoding is 5 % slower from the ninth on, and one with changes in its tree."""
    path = tmp_path_factory.mktemp("history") / "h.db"
    with history.open_history(path) as database:
        for place in range(16):
            slower = 1.0 if place < 8 else 0.95
            rows = sweep(runs=1, seed=place, slower=slower, ctx=(2048,), noise=0.002)
            rows = [replace(r, step_s=(0.1,) * 64, step_tokens=(1,) * 64) for r in rows]
            history.add(
                database, result_of(rows, at=1764547200.0 + 86400 * place, commit=f"c{place}")
            )
        dirty = {"code": {"commit": "c9", "dirty": True}}
        rows = sweep(runs=1, seed=99, ctx=(2048,))
        history.add(database, result_of(rows, at=1764547200.0, **dirty))
        other = {"cpu": {"name": "Other", "usable_cores": 2}}
        history.add(database, result_of(sweep(runs=1, ctx=(2048,)), at=1.0, commit="d0", **other))
    return path


@pytest.fixture
def database(stored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "h.db").write_bytes(stored.read_bytes())
    return "h.db"


def test_history_lists_its_runs(database):
    text = run("list", database).stdout
    assert text.count("Fake 9000") == 17 and text.count("Other") == 1
    assert "2025-12-01 00:00" in text and "c9+" in text and "uncommitted changes" in text
    rows = json.loads(run("list", database, "--json").stdout)
    assert len(rows) == 18 and rows[0]["commit"] == "d0" and rows[0]["cells"] == 4


def test_history_shows_a_run(database):
    number = json.loads(run("list", database, "--json").stdout)[-1]["run"]
    text = run("show", database, "--run", str(number)).stdout
    assert "commit c15" in text and "Fake 9000" in text
    assert any(line.split()[:3] == ["itl_p99", "plain", "2048"] and line.endswith("100.00 ms")
               for line in text.splitlines())  # fmt: skip
    record = json.loads(run("show", database, "--run", str(number), "--json").stdout)
    assert record["facts"]["cpu"] == "Fake 9000" and len(record["points"]) > 4


def test_history_prunes_by_number_day_and_count(database):
    before = json.loads(run("list", database, "--json").stdout)
    assert "would remove 1 runs" in run(
        "prune", database, "--before", "2025-11-30", "--dry-run").stdout  # fmt: skip
    assert len(json.loads(run("list", database, "--json").stdout)) == 18
    last = str(before[-1]["run"])
    gone = run("prune", database, "--run", last, "--before", "2025-11-30").stdout
    assert gone.startswith("removed 2 runs: ") and last in gone.removeprefix("removed 2 runs: ")
    assert len(json.loads(run("list", database, "--json").stdout)) == 16
    assert run("prune", database, "--keep", "3").exit_code == exits.OK
    left = json.loads(run("list", database, "--json").stdout)
    assert [r["commit"] for r in left] == ["c12", "c13", "c14"]


def test_history_trend_says_where_the_level_changed(database):
    line = "--metric decode --mode plain --ctx 2048"
    result = run("trend", database, *line.split())
    assert result.exit_code == exits.OK
    assert "decode plain at 2048" in result.stdout and "% from c8 on" in result.stdout
    [one] = json.loads(run("trend", database, *line.split(), "--json").stdout)
    assert len(one["points"]) == 16 and one["unit"] == "tokens/s"
    [change] = one["changes"]
    assert change["commit"] == "c8" and change["effect"] == pytest.approx(-0.05, abs=0.005)
    gated = run("trend", database, *line.split(), "--gate")
    assert gated.exit_code == exits.REGRESSION
    fine = run("trend", database, "--metric", "prefill", "--gate")
    assert fine.exit_code == exits.OK and "level" in fine.stdout


def test_a_latency_that_grew_is_said_to_have_grown():
    """Stored are rates: 5 % less of one are 5.3 % more milliseconds, and "-5 %" would mislead."""
    grew = Change(8, before=10.0, after=9.5, p_value=0.001)
    assert change_text("first_token", grew) == "+5.3 % (slower)"
    assert change_text("itl_p99", replace(grew, after=10.5)) == "-4.8 % (faster)"
    assert change_text("decode", grew) == "-5.0 %"


def test_latencies_of_a_history_are_milliseconds_in_every_view():
    points = tuple(Past(f"c{i}", 1.7e9 + i, rate) for i, rate in enumerate([10.0] * 4 + [9.5] * 4))
    key = Key("first_token", "plain", 2048, 2048)
    one = Series(key, points, (Change(4, 10.0, 9.5, 0.001),))
    chart = spark(one)
    assert (chart.first, chart.unit) == (100.0, "ms") and chart.last == pytest.approx(
        105.26, abs=0.01
    )
    assert chart.dots[-1][1] < chart.dots[0][1], "more milliseconds stand higher"
    assert chart.changes[0][1] == "+5.3 % (slower) at c4"
    summary = to_summary(Report("id", [], series=[one]))
    assert "first_token plain at 2048: +5.3 % (slower) from c4 on" in summary
    [panel] = figure([one]).axes
    assert panel.texts[0].get_text() == "+5.3 % (slower) at c4" and panel.get_ylabel() == "ms"


def test_days_of_several_years_are_told_apart():
    points = tuple(Past(f"c{i}", 1.7e9 + 2.6e7 * i, 10.0 + i % 2) for i in range(4))
    [panel] = figure([Series(Key("decode", "plain", 2048, 2048), points, ())]).axes
    ticks = [text.get_text() for text in panel.get_xticklabels()]
    assert ticks == ["2023-11", "2024-09", "2025-07", "2026-05"]


def test_history_trend_of_another_set_up(database):
    other = json.loads(run("list", database, "--json").stdout)[0]["setup"]
    assert "Other" in run("trend", database, "--setup", other[:10]).stdout


def test_history_draws_its_series(database, tmp_path):
    arguments = ["trend", database, "--plot", "t.svg", "--dark"]
    assert run(*arguments).exit_code == exits.OK
    ET.fromstring((tmp_path / "t.svg").read_bytes())
    assert run(*arguments).exit_code == exits.USAGE, "it is there"
    assert run(*arguments, "--force").exit_code == exits.OK
    assert len(list(tmp_path.glob("t.svg.old-*"))) == 1


def test_history_exports_what_bencher_reads(database, tmp_path):
    assert run("trend", database, "--bencher", "b.json").exit_code == exits.OK
    data = json.loads((tmp_path / "b.json").read_text())
    assert all(
        set(metric) <= {"value", "lower_value", "upper_value"} and "value" in metric
        for measures in data.values()
        for metric in measures.values()
    )
    assert set(data["decode plain at 2048"]) == {"throughput"}
    point = data["decode plain at 2048"]["throughput"]
    assert point["lower_value"] <= point["value"] <= point["upper_value"] < 13
    assert data["itl_p99 plain at 2048"]["latency-ms"]["value"] == pytest.approx(100)


def test_history_exports_what_otava_reads(database, tmp_path):
    assert run("trend", database, "--otava", "o.csv", "--metric", "decode").exit_code == exits.OK
    rows = list(csv.DictReader((tmp_path / "o.csv").read_text().splitlines()))
    assert [r["commit"] for r in rows] == [f"c{i}" for i in range(16)]
    assert rows[0]["time"] == "2025-12-01T00:00:00+00:00"
    assert "direction: 1" in (tmp_path / "o.yaml").read_text()


def test_bencher_has_a_schema(stored):
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    with history.open_history(stored) as db:
        found = wanted(db, history.setup_of(result_of(sweep(ctx=(2048,)))), [], [], [])
    jsonschema.validate(bencher(found), BMF)


def test_otava_finds_the_same_change(stored, tmp_path):
    importer = pytest.importorskip("otava.importer", reason="pip install apache-otava")
    config = pytest.importorskip("otava.config")
    with history.open_history(stored) as db:
        found = wanted(db, history.setup_of(result_of(sweep(ctx=(2048,)))), ["decode"], [], [])
    table, text = otava(found, str(tmp_path / "o.csv"))
    (tmp_path / "o.csv").write_text(table)
    (tmp_path / "o.yaml").write_text(text)
    [test] = config.load_config_from_file(str(tmp_path / "o.yaml")).tests.values()
    from otava.data_selector import DataSelector

    series = importer.CsvImporter().fetch_data(test, DataSelector())
    points = series.analyze().change_points_by_time
    assert {series.attributes["commit"][p.index] for p in points} == {"c8"}


def test_cells_that_a_commit_lacks_stay_empty():
    points = (history.Past("a", 0.0, 5.0), history.Past("b", 60.0, 6.0))
    keys = [history.Key("decode", "plain", c, c) for c in (1, 2)]
    found = [history.Series(keys[0], points, ()), history.Series(keys[1], points[1:], ())]
    table, _ = otava(found, "x.csv")
    assert table.splitlines()[1:] == [
        "1970-01-01T00:00:00+00:00,a,5,", "1970-01-01T00:01:00+00:00,b,6,6",
    ]  # fmt: skip
    assert bencher(found)["decode plain at 2"] == {"throughput": {"value": 6.0}}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["show", "h.db"], "--run: expected one number"),
        (["show", "h.db", "--run", "99"], "--run: expected the number of a stored run"),
        (["prune", "h.db"], "expected --run, --keep or --before"),
        (["prune", "h.db", "--before", "soon"], "--before: expected a day"),
        (["prune", "h.db", "--run", "99"], "--run: expected the number"),
        (["list", "h.db", "--keep", "3"], "--keep: expected history prune, found list"),
        (["list", "h.db", "--plot", "x.svg"], "--plot: expected history trend"),
        (["list", "none.db"], "expected a file"),
        (["trend", "h.db", "--setup", "zz"], "--setup: expected one set-up"),
        (["trend", "h.db", "--ctx", "77"], "expected a series of that choice"),
        (["trend", "h.db", "--plot", "x.pdf"], "--plot: expected a name ending in"),
        (["dance", "h.db"], "expected list, show, prune"),
    ],
)
def test_history_refuses(database, tmp_path, arguments, text):
    result = run(*arguments)
    assert result.exit_code == exits.USAGE and text in result.stderr, result.stderr
    assert not (tmp_path / "none.db").exists()


def test_first_token_and_itl_are_judged_where_a_tolerance_names_them(tmp_path):
    def rows(p99, seed):
        return [
            replace(r, step_s=(0.2, *(0.01,) * 62, p99), step_tokens=(1,) * 64, gen_tokens=64)
            for r in sweep(seed=seed, modes=("plain",), slower=1.0)
        ]

    base = str(write_journal(tmp_path / "base", rows(0.01, 0)))
    head = str(write_journal(tmp_path / "head", rows(0.40, 1)))
    invoke = CliRunner().invoke
    assert invoke(cli.main, ["compare", base, head]).exit_code == exits.OK
    line = ["compare", base, head, "--tolerance", "itl_p99=20", "--tolerance", "first_token=20"]
    judged = invoke(cli.main, [*line, "--format", "json"])
    assert judged.exit_code == exits.REGRESSION, judged.output
    curves = {c["metric"]: c["verdict"] for c in json.loads(judged.stdout)["curves"]}
    assert curves["itl_p99"] == "regressed" and curves["first_token"] == "fine"
    table = invoke(cli.main, line).stdout
    [shown] = [row for row in table.splitlines() if row.split()[:1] == ["itl_p99"]][:1]
    assert shown.rstrip().endswith("ms") and "10.00 ms" in shown
    gate = ["report", head, "--base", base, "--gate", "--tolerance", "itl_p99=20"]
    assert invoke(cli.main, [*gate, "--out", str(tmp_path / "r")]).exit_code == exits.REGRESSION
    assert read_rows(tmp_path / "base").rows[0].itl_s(99) == pytest.approx(0.01)
