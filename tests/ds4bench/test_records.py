"""Rows: derived values against numpy, files against upstream's bytes, readers against bad files."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4bench.records import csv_text as records_csv
from ds4bench.records.files import publish_views, read_rows, write_parquet
from ds4bench.records.rows import (
    SCHEMA,
    SCHEMA_VERSION,
    STATUSES,
    SpeedRow,
    Telemetry,
    latest,
    stamped,
)
from engine.errors import EngineError, StoreError
from engine.options import MODES
from engine.tooling.results.journal import Journal

seconds = st.floats(1e-6, 1e6)
ROWS = st.builds(
    SpeedRow,
    ctx_tokens=st.integers(1, 2**31),
    started_at=st.none() | st.integers(0, 2**50).map(lambda n: n / 1e6),
    prefill_tokens=st.integers(1, 2**31),
    prefill_s=st.none() | seconds,
    gen_tokens=st.integers(0, 10**6),
    gen_s=st.none() | seconds,
    kv_bytes=st.none() | st.integers(1, 2**50),
    mode=st.sampled_from(MODES),
    run=st.integers(1, 99),
    status=st.sampled_from(STATUSES),
    message=st.text(max_size=20),
    steps=st.none() | st.integers(1, 10**6),
    drafted=st.none() | st.integers(0, 10**6),
    accepted=st.none() | st.integers(0, 10**6),
    step_s=st.lists(seconds, max_size=4).map(tuple),
    step_tokens=st.lists(st.integers(1, 5), max_size=4).map(tuple),
    token_hash=st.none() | st.just("ab" * 32),
    resumed=st.booleans(),
    bytes_per_step=st.none() | seconds,
    telemetry=st.builds(
        Telemetry,
        cpu_load_pct=st.none() | st.floats(0, 100),
        swap_used_bytes=st.none() | st.integers(0, 2**40),
        gpu_throttle=st.none() | st.sampled_from(["", "sw-thermal"]),
    ),
)


def row(ctx=2048, mode="plain", run=1, **more):
    given = dict(
        prefill_tokens=2048, prefill_s=4.0, gen_tokens=4, gen_s=0.5, kv_bytes=52184460, steps=4,
        step_s=(0.2, 0.1, 0.1, 0.1), step_tokens=(1, 1, 1, 1), token_hash="aa" * 32,
    )  # fmt: skip
    return SpeedRow(ctx_tokens=ctx, mode=mode, run=run, **{**given, **more})


@given(ROWS)
def test_record_round_trip_is_strict_json(one):
    text = json.dumps(one.to_record(), allow_nan=False)
    assert SpeedRow.from_record(json.loads(text)) == one


def test_later_fields_are_ignored_and_missing_ones_refused():
    record = row().to_record()
    assert SpeedRow.from_record({**record, "invented_later": 1}) == row()
    del record["ctx_tokens"]
    with pytest.raises(StoreError, match="record 7: ctx_tokens: expected a value, found none"):
        SpeedRow.from_record(record, "record 7")


@given(
    st.lists(st.tuples(seconds, st.integers(1, 5)), min_size=2, max_size=30),
    st.sampled_from([0, 50, 90, 99, 100]),
)
def test_latency_percentiles_are_numpys_over_tokens(steps, percent):
    counts = tuple(n for _, n in steps)
    one = row(step_s=tuple(s for s, _ in steps), step_tokens=counts, gen_tokens=sum(counts))
    per_token = [s / n for s, n in steps[1:] for _ in range(n)]

    assert one.itl_s(percent) == pytest.approx(np.percentile(per_token, percent), rel=1e-12)


def test_a_csv_knows_the_first_step_and_no_percentiles(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(records_csv.to_csv([row(mode="mtp-combined", run=2)], upstream_only=False))
    [one] = read_rows(path).rows
    assert one.first_token_s == 0.2
    assert one.itl_s(50) is one.itl_s(99) is None, "the first token's latency is no median"


def test_derived_rates():
    one = row(steps=2, drafted=4, accepted=3, bytes_per_step=1e9)
    assert one.prefill_tps == 512
    assert one.gen_tps == 8
    assert one.tokens_per_step == 2
    assert one.steps_per_s == 4
    assert one.acceptance == 0.75
    assert one.first_token_s == 0.2
    assert one.steady_tps == pytest.approx(10)
    assert one.bandwidth == 4e9
    assert one.gen_joules_per_token is None, "nobody measured energy"
    metered = row(steps=2, telemetry=Telemetry(gen_energy_j=6.0))
    assert metered.gen_joules_per_token == 6.0 / metered.gen_tokens


@pytest.mark.parametrize("gen_s", [None, 0.0, float("nan"), float("inf")])
def test_unknown_is_none_never_zero_or_infinite(gen_s):
    one = row(gen_s=gen_s, step_s=(), step_tokens=())
    assert one.gen_tps is None
    assert (one.first_token_s, one.steady_tps, one.itl_s(50)) == (None, None, None)
    assert row(drafted=0, accepted=0).acceptance is None


def test_single_plain_run_is_upstreams_file_to_the_byte():
    """The first two rows of upstream's published GB10 sweep, from raw seconds back to text."""
    rows = [
        row(2048, prefill_s=2048 / 418.96, gen_tokens=128, gen_s=128 / 14.36, kv_bytes=52184460),
        row(4096, prefill_s=2048 / 404.52, gen_tokens=128, gen_s=128 / 14.4, kv_bytes=80373132),
        row(6144, status="error"),
    ]
    expected = (
        b"ctx_tokens,prefill_tokens,prefill_tps,gen_tokens,gen_tps,kvcache_bytes\n"
        b"2048,2048,418.96,128,14.36,52184460\n"
        b"4096,2048,404.52,128,14.40,80373132\n"
    )
    assert records_csv.to_csv(rows, upstream_only=True) == expected


@given(st.floats(0.001, 1e6), st.floats(0.001, 1e6))
def test_rates_print_as_c_prints_them(prefill_tps, gen_tps):
    """%.2f of C and of Python round the same binary value the same way."""
    one = row(prefill_tokens=1, prefill_s=1 / prefill_tps, gen_tokens=1, gen_s=1 / gen_tps)
    cells = records_csv.line(one, True).split(",")
    assert cells[2] == "%.2f" % one.prefill_tps and cells[4] == "%.2f" % one.gen_tps  # noqa: UP031


def test_extended_file_has_upstreams_columns_first():
    text = records_csv.to_csv([row(), row(mode="mtp-strict", drafted=4, accepted=3)], False)
    table = pd.read_csv(io.BytesIO(text))
    assert tuple(table.columns[:6]) == records_csv.UPSTREAM
    assert tuple(table.columns[6:9]) == ("mode", "run", "status")
    assert list(table["mode"]) == ["plain", "mtp-strict"]


@given(st.lists(ROWS, max_size=5))
@settings(max_examples=50, deadline=None)
def test_csv_is_read_back_by_pandas_and_by_us(tmp_path_factory, rows):
    rows = latest(rows)
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(records_csv.to_csv(rows, False, 1e10))
    table = pd.read_csv(path, keep_default_na=False)
    assert list(table.columns) == list(records_csv.COLUMNS)
    back = read_rows(path).rows
    for name in ("ctx_tokens", "mode", "run", "status", "resumed"):
        assert [getattr(r, name) for r in back] == [getattr(r, name) for r in rows]
    assert [r.message for r in back] == list(table["message"])
    assert all(not r.message or m for r, m in zip(rows, table["message"]))


NINE = (
    "ctx_tokens,prefill_tokens,prefill_tps,gen_tokens,gen_tps,gen_first_ms,gen_steady_tokens,"
    "gen_steady_tps,kvcache_bytes\n2048,2048,833.1,128,20.58,50.2,127,20.7,0\n"
)
SIX = "ctx_tokens,prefill_tokens,prefill_tps,gen_tokens,gen_tps,kvcache_bytes\n"


@pytest.mark.parametrize(
    ("text", "kv", "first"),
    [
        pytest.param(SIX + "2048,2048,833.1,128,20.58,52184460\n", 52184460, None, id="6 columns"),
        pytest.param(NINE, None, 0.0502, id="9 columns, kv not measured"),
        pytest.param("\ufeff" + NINE, None, 0.0502, id="BOM"),
        pytest.param(NINE.replace("\n", "\r\n"), None, 0.0502, id="CRLF"),
        pytest.param(SIX + "2048,2048,833.1,128,20.58,0\n\n", None, None, id="kv 0, empty line"),
    ],
)
def test_published_csv_files_are_read(tmp_path, text, kv, first):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    run = read_rows(path)

    (one,) = run.rows
    assert not run.exact and run.environment == {}
    assert (one.ctx_tokens, one.kv_bytes, one.mode, one.run, one.status) == (
        2048, kv, "plain", 1, "ok",
    )  # fmt: skip
    assert one.prefill_tps == pytest.approx(833.1)
    assert one.gen_tps == pytest.approx(20.58)
    assert one.first_token_s == (first if first is None else pytest.approx(first))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "empty file", id="empty"),
        pytest.param("a,b\n1,2\n", "ctx_tokens", id="other columns"),
        pytest.param(SIX.replace("gen_tps,", "gen_tps,gen_tps,"), "unique", id="column twice"),
        pytest.param(SIX + "2048,2048,8\n", "cells", id="row too short"),
        pytest.param(SIX + "2048,2048,833,1,128,20,58,1\n", "decimal commas", id="decimal commas"),
        pytest.param(SIX + "2048,2048,nan,128,20.58,1\n", "prefill_tps", id="NaN"),
        pytest.param(SIX + "2048,2048,inf,128,20.58,1\n", "prefill_tps", id="infinity"),
        pytest.param(SIX + "2048,2048,-1,128,20.58,1\n", "prefill_tps", id="negative"),
        pytest.param(SIX + "2048.5,2048,1,128,20.58,1\n", "whole", id="half a token"),
        pytest.param(SIX + ",2048,1,128,20.58,1\n", "empty cells", id="no context"),
        pytest.param(SIX + "2048,x,1,128,20.58,1\n", "a number", id="word for a number"),
        pytest.param(
            SIX.replace("\n", ",mode\n") + "2048,2048,1,128,2,1,=cmd()\n", "mode", id="formula"
        ),
    ],
)
def test_bad_csv_is_one_error_with_its_place(tmp_path, text, words):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(EngineError, match=words) as failure:
        read_rows(path)
    assert str(path) in str(failure.value)


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"PAR1 but no more", b"PAR1" * 40, b"\x00" * 64])
def test_binary_garbage_is_one_error(tmp_path, data):
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(EngineError):
        read_rows(path)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_make_the_reader_fail_otherwise(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_bytes(data)
    with contextlib.suppress(EngineError):
        read_rows(path)


def test_zero_rates_are_unknown_and_duplicates_the_last_wins(tmp_path):
    path = tmp_path / "a.csv"
    run_column = SIX.replace("\n", ",run\n")
    path.write_text(
        run_column + "2048,2048,0,128,0,1,1\n2048,2048,5,128,6,1,1\n4096,2048,0,0,0,0,1\n"
    )
    run = read_rows(path)
    assert [r.prefill_s for r in run.rows] == [pytest.approx(2048 / 5), None]
    assert run.dropped == 1


def journal_of(folder, rows, temp=0.0):
    header = {"plan": {"sampling": {"temp": temp}}}
    with Journal.open(folder / "rows.jsonl", SCHEMA, SCHEMA_VERSION, header) as journal:
        journal.append({"kind": "warmup", "round": 0, "prefill_s": 1.0})
        bandwidth = {"read_bytes_per_s": 2e10}
        journal.append({"kind": "start", "environment": {"bandwidth": bandwidth}})
        for one in rows:
            journal.append({"kind": "row", **one.to_record()})


@given(st.lists(ROWS, max_size=4))
@settings(max_examples=25, deadline=None)
def test_journal_and_parquet_hold_the_same_rows(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("views")
    journal_of(folder, rows)
    run = read_rows(folder)
    publish_views(
        rows, run.environment, csv_path=None, parquet_path=folder / "a.parquet",
        upstream_only=False,
    )  # fmt: skip

    assert run.exact and len(run.warmups) == 1
    assert read_rows(folder / "a.parquet").rows == run.rows == tuple(stamped(rows, True))


def test_parquet_is_raw_seconds_with_units_and_environment(tmp_path):
    buffer = io.BytesIO()
    write_parquet(buffer, [row(), row(4096)], {"cpu": {"name": "é"}, "starts": 1})
    (tmp_path / "a.parquet").write_bytes(buffer.getvalue())
    table = pq.read_table(tmp_path / "a.parquet")

    assert table.column("gen_s").to_pylist() == [0.5, 0.5]
    assert table.schema.field("gen_s").metadata == {b"unit": b"seconds"}
    assert table.schema.field("kv_bytes").metadata == {b"unit": b"bytes"}
    assert json.loads(table.schema.metadata[b"environment"])["cpu"] == {"name": "é"}
    assert table.column("step_s").to_pylist()[0] == [0.2, 0.1, 0.1, 0.1]
    frame = pd.read_parquet(tmp_path / "a.parquet")
    assert list(frame["ctx_tokens"]) == [2048, 4096]


def test_parquet_of_a_later_version_or_another_tool_is_refused(tmp_path):
    import pyarrow as pa

    for metadata, words in [(None, "schema"), ({"schema": SCHEMA, "version": "99"}, "version")]:
        table = pa.table({"ctx_tokens": [1]}).replace_schema_metadata(metadata)
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(EngineError, match=words):
            read_rows(tmp_path / "a.parquet")
    table = table.replace_schema_metadata({"schema": SCHEMA, "version": "1"})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(EngineError, match="row 1: prefill_tokens: expected a value, found none"):
        read_rows(tmp_path / "a.parquet")


def test_lossless_stamp_and_shared_prefill():
    rows = [
        row(mode="mtp-strict"),
        row(mode="plain"),
        row(mode="mtp-batched", token_hash="bb" * 32),
        row(mode="plain", run=2, prefill_s=4.1),
        row(mode="mtp-combined", run=2, prefill_s=4.1, status="error"),
        row(4096, mode="mtp-strict"),
    ]
    by = {(r.run, r.ctx_tokens, r.mode): r for r in stamped(rows, True)}

    assert by[1, 2048, "plain"].lossless is True
    assert by[1, 2048, "mtp-strict"].lossless is True
    assert by[1, 2048, "mtp-batched"].lossless is False
    assert by[2, 2048, "mtp-combined"].lossless is None
    assert by[1, 4096, "mtp-strict"].lossless is None, "no plain row to compare with"
    assert [r.prefill_shared for r in stamped(rows, True)] == [
        False, True, True, False, False, True,
    ]  # fmt: skip
    assert all(r.lossless is None for r in stamped(rows, False))


def test_a_prefill_that_a_failed_row_measured_belongs_to_a_finished_one():
    rows = [row(status="crashed_segv"), row(mode="mtp-strict"), row(mode="mtp-combined")]
    assert {r.mode: r.prefill_shared for r in stamped(rows, True)} == {
        "plain": True, "mtp-strict": False, "mtp-combined": True,
    }  # fmt: skip
    assert [r.prefill_shared for r in stamped([row(status="error")], True)] == [False]


def test_plain_that_does_not_repeat_itself_is_marked():
    rows = stamped([row(), row(run=2, token_hash="bb" * 32)], True)
    assert [r.lossless for r in rows] == [True, False]


def test_a_retried_row_replaces_the_failed_one():
    assert latest([row(status="error"), row()]) == [row()]


def test_missing_files_are_one_error(tmp_path):
    for path in (tmp_path, tmp_path / "no.csv"):
        with pytest.raises(EngineError, match="expected a readable file, found No such file"):
            read_rows(path)


def test_parquet_does_not_tell_who_the_user_is(tmp_path, monkeypatch):
    from ds4bench.records.files import _shareable

    monkeypatch.setenv("HOME", str(tmp_path / "ann"))
    model = str(tmp_path / "ann" / "models" / "m.gguf")

    seen = _shareable({"model": [{"path": model}], "other": "/data/m.gguf", "n": 3})

    assert seen == {"model": [{"path": "~/models/m.gguf"}], "other": "/data/m.gguf", "n": 3}
