"""Result files as people make them: joined, from a spreadsheet, with impossible numbers."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import datetime, timezone

import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ds4bench import cli
from ds4bench.records import csv_text
from ds4bench.records.files import labels_of, read_rows, write_parquet
from ds4bench.records.rows import SpeedRow
from engine.errors import EngineError
from engine.tooling import exits
from tests.ds4bench.speed_rows import sweep, write_journal

SIX = "ctx_tokens,prefill_tokens,prefill_tps,gen_tokens,gen_tps,kvcache_bytes\n"
ONE = SIX + "".join(f"{2048 * n},2048,{400 - n}.25,128,{20 - n}.50,{n}\n" for n in range(1, 7))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(ONE + ONE, id="two files"),
        pytest.param(ONE + ONE.removeprefix(SIX), id="two files, the second without its header"),
        pytest.param(ONE + "\n\ufeff" + ONE.replace("\n", "\r\n"), id="BOM and CRLF behind"),
    ],
)
def test_files_one_behind_the_other_are_so_many_runs(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    run = read_rows(path)
    assert run.dropped == 0
    assert [row.run for row in run.rows] == [1] * 6 + [2] * 6
    assert [row.ctx_tokens for row in run.rows] == [2048 * n for n in range(1, 7)] * 2


def test_joined_files_may_have_other_columns(tmp_path):
    path = tmp_path / "a.csv"
    rows = sweep(runs=2, modes=("plain",))
    path.write_bytes(ONE.encode() + csv_text.to_csv(rows, upstream_only=False))
    assert [row.run for row in read_rows(path).rows] == [1] * 6 + [2] * 3 + [3] * 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(ONE, id="commas"),
        pytest.param(ONE.replace(",", ";"), id="semicolons"),
        pytest.param(ONE.replace(",", ";").replace(".", ","), id="semicolons, decimal commas"),
        pytest.param(ONE.replace(",", "\t").replace(".", ","), id="tabs, decimal commas"),
    ],
)
def test_what_spreadsheets_write_is_read(tmp_path, text, encoding):
    path, plain = tmp_path / "a.csv", tmp_path / "b.csv"
    mark = "\ufeff" if encoding.endswith("e") else ""
    path.write_bytes((mark + text).encode(encoding))
    plain.write_text(ONE)
    assert read_rows(path).rows == read_rows(plain).rows


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (ONE.encode() + b"\xff", f"expected UTF-8, found bad byte at {len(ONE)}"),
        (b"\xff\xfea\x00\x00\xd8", "expected UTF-16, found bad byte at 4"),
    ],
    ids=["utf-8", "utf-16"],
)
def test_bytes_that_are_no_text_are_named_by_their_encoding(tmp_path, data, words):
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(EngineError, match=words):
        read_rows(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        pytest.param("0,2048,1,128,2,1", "a.csv:2: expected ctx_tokens from 1", id="no context"),
        pytest.param("1e30,2048,1,128,2,1", "ctx_tokens from 1 to 2.31", id="vast context"),
        pytest.param("2048,1e30,1,128,2,1", "prefill_tokens from 0", id="vast prefill"),
        pytest.param("2048,2048,1e308,128,2,1", "prefill_tps from 0", id="vast rate"),
        pytest.param("2048,2048,1,128,1e308,1", "gen_tps from 0", id="vast decode rate"),
        pytest.param("2048,2048,1e-300,128,2,1", "prefill_s from 0", id="endless prefill"),
    ],
)
def test_impossible_numbers_are_refused_by_line_before_anything_is_drawn(
    tmp_path, monkeypatch, recwarn, line, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text(SIX + line + "\n")
    with pytest.raises(EngineError, match=words):
        read_rows(tmp_path / "a.csv")
    result = CliRunner().invoke(cli.main, ["plot", "a.csv", "-o", "a.svg"])
    assert result.exit_code == exits.ERROR and result.stderr.count("\n") == 1
    assert not (tmp_path / "a.svg").exists() and not recwarn.list


@pytest.mark.parametrize("changed", [{"ctx_tokens": 0}, {"gen_s": 1e-300}, {"step_s": (-1.0,)}])
def test_impossible_numbers_are_refused_in_every_kind_of_file(tmp_path, changed):
    rows = [replace(row, **changed) for row in sweep(runs=1)]
    with pytest.raises(EngineError, match=r"record 3: .*(ctx_tokens|gen_tps|step_s)"):
        read_rows(write_journal(tmp_path / "run", rows))
    with (tmp_path / "a.parquet").open("wb") as file:
        write_parquet(file, rows, {})
    with pytest.raises(EngineError, match=r"a.parquet: row 1: .*(ctx_tokens|gen_tps|step_s)"):
        read_rows(tmp_path / "a.parquet")


def test_csv_says_what_failed_and_what_was_rebuilt(tmp_path):
    rows = [
        SpeedRow(2048, 2048, 1.0, 4, 1.0, resumed=True),
        SpeedRow(4096, 2048, status="error", message='a "b", c;\nd é'),
        SpeedRow(8192, 4096, status="error", message="=1+1"),
    ]
    text = csv_text.to_csv(rows, upstream_only=False)
    text.decode("ascii")
    table = pd.read_csv(io.BytesIO(text), keep_default_na=False)
    assert list(table["resumed"]) == [1, 0, 0]
    assert list(table["message"]) == ["", 'a "b", c;\\ufffdd \\xe9', "'=1+1"]
    (tmp_path / "a.csv").write_bytes(text)
    assert [row.resumed for row in read_rows(tmp_path / "a.csv").rows] == [True, False, False]


def test_parquet_has_a_unit_on_every_field_and_times_as_times(tmp_path):
    rows = [replace(row, started_at=1764590400.25) for row in sweep(runs=1)]
    path = tmp_path / "a.parquet"
    with path.open("wb") as file:
        write_parquet(file, rows, {})
    schema = pq.read_schema(path)
    units = {field.name: (field.metadata or {}).get(b"unit") for field in schema}
    assert None not in units.values()
    assert units["bytes_per_step"] == b"bytes per step" and units["steps"] == b"steps"
    assert units["gen_h2d_copies"] == b"copies" and units["lossless"] == b"flag"
    at = pq.read_table(path).column("started_at").to_pylist()[0]
    assert at == datetime(2025, 12, 1, 12, 0, 0, 250000, tzinfo=timezone.utc)
    assert read_rows(path).rows[0].started_at == 1764590400.25


def test_parquet_of_the_first_version_had_seconds(tmp_path):
    rows = [replace(row, started_at=1764590400.25) for row in sweep(runs=1)]
    path = tmp_path / "a.parquet"
    with path.open("wb") as file:
        write_parquet(file, rows, {})
    table = pq.read_table(path)
    place = table.schema.get_field_index("started_at")
    table = table.set_column(place, "started_at", [[1764590400.25] * len(rows)])
    pq.write_table(table, path)
    assert read_rows(path).rows[0].started_at == 1764590400.25


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c/x", "d/x"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "rows.jsonl").touch()
        (tmp_path / name / "sweep.csv").touch()
    assert labels_of(["a/sweep.csv", "b/sweep.csv"]) == ["a/sweep", "b/sweep"]
    assert labels_of(["a/sweep.csv", "c/x/sweep.csv", "d/x/sweep.csv"]) == [
        "a/sweep", "c/x/sweep", "d/x/sweep",
    ]  # fmt: skip
    assert labels_of(["a", "b/rows.jsonl", "c/x", "d/x"]) == ["a", "b", "c/x", "d/x"]
    assert labels_of(["a/sweep.csv", "a/sweep.csv"]) == ["sweep (1)", "sweep (2)"]


def test_a_quote_that_never_ends_swallows_no_row(tmp_path):
    """Rows behind it became a part of one row's message, and the curve was short of them."""
    path = tmp_path / "open.csv"
    head = ",".join(csv_text.UPSTREAM)
    path.write_text(f'{head},message\n2048,2048,400,128,15,1000,"a\n4096,2048,390,128,14,1000,b\n')
    with pytest.raises(EngineError, match="expected CSV, found unexpected end of data"):
        read_rows(path)
    path.write_text(f'{head},message\n2048,2048,400,128,15,1000,"a\nb"\n4096,2048,390,128,14,1,b\n')
    assert [row.ctx_tokens for row in read_rows(path).rows] == [2048, 4096]
