"""Whole sweeps with the fake worker: rows, columns, circumstances, where they are written."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import pytest

import ds4bench.sweep.run as sweep_module
from ds4bench.records.csv_text import UPSTREAM
from ds4bench.records.files import read_rows
from engine.options import MTP_MODES
from engine.tooling import exits
from engine.tooling.results.journal import scan
from tests.ds4bench.sweeps import ALL, SIZE, table

MODES = ("plain", *MTP_MODES)  # of --mode all where no DSpark drafter is named


def test_one_plain_run_is_six_columns_in_order(bench):
    result = bench(*SIZE, "--csv", "a.csv", "--parquet", "a.parquet")

    assert result.exit_code == 0, result.stderr
    frame = table("a.csv")
    assert tuple(frame.columns) == UPSTREAM
    assert list(frame["ctx_tokens"]) == [100, 200, 300, 400]
    assert list(frame["prefill_tokens"]) == [100] * 4
    assert list(frame["kvcache_bytes"]) == [1000 + 64 * c for c in (100, 200, 300, 400)]
    # Nothing but the work is in the rates, though snapshots cost the fake clock 1000 s each.
    raw = pd.read_parquet("a.parquet")
    for ctx, prefill_s in zip(raw["ctx_tokens"], raw["prefill_s"]):
        assert prefill_s == pytest.approx(0.1 + ctx * 100 * 1e-8)
    assert (raw["gen_s"] < 1).all()
    assert b"\r" not in (bench.folder / "a.csv").read_bytes()


def test_all_modes_do_the_same_work_in_rotated_order(bench):
    result = bench(*ALL, "--out", "o", "--plot", "p.svg")

    assert result.exit_code == 0, result.stderr
    frame = table("o/sweep.csv")
    assert tuple(frame.columns[:6]) == UPSTREAM
    assert len(frame) == 32 and set(frame["gen_tokens"]) == {8}
    assert (frame["lossless"] == 1).all()
    assert frame.groupby(["ctx_tokens"])["token_hash"].nunique().max() == 1
    assert set(frame[frame["mode"] == "mtp-strict"]["tokens_per_step"]) == {2.0}
    assert (frame.groupby(["run", "ctx_tokens"])["prefill_shared"].sum() == 3).all()
    assert (bench.folder / "p.svg").read_bytes().startswith(b"<?xml")
    records, _ = scan((bench.folder / "o" / "rows.jsonl").read_bytes())
    order = [r["mode"] for r in records if r.get("kind") == "row"]
    firsts = Counter(order[::4])
    assert firsts == Counter(dict.fromkeys(MODES, 2))
    assert any(r.get("kind") == "warmup" for r in records)


def test_environment_record_is_complete(bench):
    bench(*SIZE, "--out", "o")
    environment = read_rows("o").environment
    for name in ("code", "packages", "cpu", "python", "bandwidth", "engine", "model", "gpu",
                 "prompt_tokens_sha256", "command", "plan", "fingerprint", "memory"):  # fmt: skip
        assert name in environment, name
    assert environment["bandwidth"]["read_bytes_per_s"] == 1e10
    assert read_rows("o/sweep.parquet").environment == environment


@pytest.mark.parametrize(
    ("options", "ordinal", "celsius"), [((), 0, None), (("--cuda", "--device", "1"), 1, 61)]
)
def test_the_gpu_is_read_where_it_computes(bench, monkeypatch, options, ordinal, celsius):
    class Gpu:
        def __init__(self, ordinal):
            self.ordinal = ordinal

        def facts(self):
            return {"name": "NVIDIA GB10", "ordinal": self.ordinal}

        present = True

        def read(self, pid=None):
            return {"temp_c": 61}

        def energy_j(self):
            return None

    monkeypatch.setattr(sweep_module, "Gpu", Gpu)
    assert bench(*SIZE, *options, "--out", "o").exit_code == 0
    assert read_rows("o").environment["gpu"]["ordinal"] == ordinal
    assert {row.telemetry.gpu_temp_c for row in read_rows("o").rows} == {celsius}


def test_sampled_rows_are_not_stamped(bench):
    assert bench(*SIZE, "--mode", "all", "--temp", "0.7", "--out", "o").exit_code == 0
    assert all(row.lossless is None for row in read_rows("o").rows)


def test_copies_to_a_device_are_counted_per_window(bench):
    bench.faults(device=True)
    assert bench(*SIZE, "--csv", "a.csv").exit_code == exits.OK
    for row in read_rows("a.jsonl").rows:
        assert (row.prefill_h2d_bytes, row.prefill_h2d_copies) == (10, 2)
        assert (row.gen_h2d_bytes, row.gen_h2d_copies) == (10, 2)
    engine = read_rows("a.jsonl").environment["engine"]
    assert engine["first_touch"] == {"h2d_bytes": 10, "h2d_copies": 2}
    assert engine["launches"] == {"decode, 1 rows": 700}


def test_without_a_device_nothing_is_said_about_copies(bench):
    assert bench(*SIZE, "--csv", "a.csv").exit_code == exits.OK
    assert all(row.gen_h2d_bytes is None for row in read_rows("a.jsonl").rows)
    assert "first_touch" not in read_rows("a.jsonl").environment["engine"]


def test_symbolic_link_as_output(bench):
    (bench.folder / "real").mkdir()
    (bench.folder / "a.csv").symlink_to(bench.folder / "real" / "a.csv")
    assert bench(*SIZE, "--csv", "a.csv").exit_code == 0
    assert (bench.folder / "a.csv").is_symlink()
    assert (bench.folder / "real" / "a.csv").read_text().startswith("ctx_tokens")


def test_output_folder_deleted_meanwhile_is_exit_5(bench, monkeypatch):
    import shutil

    from ds4bench.sweep.cells import Runner

    real = Runner._append
    (bench.folder / "d").mkdir()

    def append(self, row):
        shutil.rmtree(bench.folder / "d", ignore_errors=True)
        real(self, row)

    monkeypatch.setattr(Runner, "_append", append)
    result = bench(*SIZE, "--csv", "d/a.csv")
    assert result.exit_code == exits.STORE and "deleted" in result.stderr


def test_a_real_sweep_warns_before_weights_are_loaded(bench, monkeypatch):
    bench.faults(mapped_bytes=10**15)
    scanned = []
    monkeypatch.setattr(
        sweep_module, "_checked", lambda plan, signals: scanned.append(plan) or plan
    )
    said = []
    monkeypatch.setattr(exits, "say", lambda line: said.append((line, len(scanned))))
    result = bench(*SIZE)
    assert result.exit_code == 0 and len(scanned) == 1
    [(line, before)] = said
    assert before == 0 and line.startswith("WARNING: memory: expected at most")
    assert "found 931322.57 GiB of mapped files + " in line

    bench.faults()
    said.clear()
    assert bench(*SIZE, "--force").exit_code == 0 and said == []
