"""What a row of a file may hold: every field is held to its type, range and vocabulary."""

from __future__ import annotations

import pytest

from ds4bench.compare import history, trends
from ds4bench.records.files import rows_of
from ds4bench.records.rows import SpeedRow, Telemetry
from ds4bench.sweep.opened import Outputs, open_journal
from engine.errors import StoreError


def row(**more):
    return SpeedRow(ctx_tokens=2048, prefill_tokens=2048, prefill_s=4.0, **more)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("mode", "<img src=x>", "expected one of .*plain.*, found '<img"),
        ("status", "=HYPERLINK()", "expected one of .*ok.*, found '=HYP"),
        ("mode", 3, "expected `str`, found `int`"),
        ("ctx_tokens", "2048", "expected `int`, found `str`"),
        ("ctx_tokens", 2048.0, "expected `int`, found `float`"),
        ("ctx_tokens", True, "expected `int`, found `bool`"),
        ("ctx_tokens", -1, "expected 0 or more, found -1"),
        ("ctx_tokens", 1 << 64, "expected|range"),
        ("gen_s", float("nan"), "expected a finite number, found nan"),
        ("gen_s", [1.0], r"expected `float \| null`, found `array`"),
        ("step_s", [0.1, "x"], "expected `float`, found `str`"),
        ("step_s", [0.1, -0.1], "expected 0 or more"),
        ("lossless", "yes", r"expected `bool \| null`, found `str`"),
        ("token_hash", "<b>", "found '<b>'"),
        ("key", "a\u202eb", r"found 'a\\u202eb'"),
        ("message", "x" * 5000, "expected at most 4000 characters, found 5000"),
        ("telemetry", {"cpu_mhz": "fast"}, r"expected `float \| null`, found `str`"),
        ("telemetry", {"gpu_throttle": "@team"}, "found '@team'"),
        ("telemetry", [], "expected `object`, found `array`"),
    ],
)
def test_a_value_that_cannot_be_names_record_and_field(field, value, words):
    record = {**row().to_record(), field: value}
    name = field if field != "telemetry" else "(telemetry|cpu_mhz|gpu_throttle)"
    with pytest.raises(StoreError, match=rf"a.jsonl: record 2: [^ ]*{name}[^ ]*: .*{words}"):
        rows_of([{"kind": "row", **record}], "a.jsonl")


def test_below_zero_is_a_temperature():
    cold = row(telemetry=Telemetry(cpu_temp_c=-5.0))
    assert SpeedRow.from_record(cold.to_record()) == cold


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("at", "yesterday", "at: expected `float`, found `str`"),
        ("setup", b"\x00", "setup: expected `str`, found `bytes`"),
        ("commit_id", 3.5, "commit: "),
        ("facts", "[]", "facts: expected a JSON object, found list"),
        ("facts", "{", "facts: expected JSON"),
    ],
)
def test_a_history_is_held_to_types_that_its_columns_are_not(tmp_path, column, value, words):
    path = tmp_path / "h.sqlite"
    row = {"digest": "d", "setup": "ab", "commit_id": "c", "dirty": 0, "at": 1.0, "facts": "{}",
           "source": "s", column: value}  # fmt: skip
    with history.open_history(path) as database:
        marks = ", ".join("?" * len(row))
        database.execute(f"INSERT INTO runs ({', '.join(row)}) VALUES ({marks})", [*row.values()])
        if column == "commit_id":  # SQLite itself makes a text of a number there
            assert trends.entries(database)[0].commit == "3.5"
            return
        with pytest.raises(StoreError, match=f"history: run 1: {words}"):
            trends.entries(database)


@pytest.mark.parametrize("kept", [False, True])
def test_a_plan_is_stored_without_places_unless_asked(tmp_path, kept):
    class Plan:
        def to_record(self):
            return {"model": "/data/ann/m.gguf", "prompt": {"path": "/home/ann/p.txt"}}

        def cells(self):
            return iter(())

    outputs = Outputs(tmp_path / "rows.jsonl", None, None, None)
    with open_journal(outputs, Plan(), {}, resume=False, force=False, allow_network_fs=True,
                      record_paths=kept) as journal:  # fmt: skip
        plan = journal.header["plan"]
    assert plan["model"] == ("/data/ann/m.gguf" if kept else "m.gguf")
    assert plan["prompt"]["path"] == ("/home/ann/p.txt" if kept else "p.txt")
