"""The peer benchmark: fair turns, honest rows, and llama.cpp's wrapper where it is installed."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from scipy import stats

from ds4bench.peer import llamacpp, ours, run, table
from ds4bench.peer import measure as peer
from ds4bench.peer.side import Done
from engine import open_engine
from engine.errors import BackendError, EngineError, ModelFileError, OptionError, StoreError
from engine.models.shapes import named_shape
from engine.models.write import write_model
from engine.options import EngineOptions
from engine.weights.bind import bind_trunk
from engine.weights.traffic import INDEX_VALUE_BYTES, decode_traffic
from tests.engine.models import model_file
from tests.oracle.randfile import SPECS, write_trunk

needs_llama = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed"
)


class FakeSide:
    """Records its turns; a decoded token t makes t + `shift` (mod 3) the likeliest."""

    threads = 2

    def __init__(self, name: str, log: list[str], shift: int = 0, seconds: float = 1.0) -> None:
        self.name, self.log, self.shift, self.seconds = name, log, shift, seconds
        self.ids: list[int] = []
        self.n_ctx = 0

    def start(self, n_ctx: int) -> None:
        self.ids, self.n_ctx = [], n_ctx

    def prefill(self, ids: list[int]) -> float:
        self.log.append(f"{self.name}+{len(ids)}")
        self.ids += ids
        return self.seconds

    def decode(self, ids: list[int]) -> Done:
        self.log.append(f"{self.name}{len(ids)}")
        self.ids += ids
        return Done(self.seconds, tuple(t + (self.shift if t % 3 == 0 else 0) for t in ids))

    def step_bytes(self, n_ctx: int) -> int | None:
        return 1000 + n_ctx if self.shift == 0 else None


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(peer, "PAUSE", 0)


def test_sides_alternate_and_see_the_same_ids():
    log: list[str] = []
    a, b = FakeSide("a", log), FakeSide("b", log, shift=1)
    gen = peer.BLOCK + 3
    ids = list(range(1100 + gen))
    prefill, decode, equal = peer.measure((a, b), ids, gen)
    assert a.ids == b.ids == ids
    assert a.n_ctx == len(ids)
    turns = [x for x in log if "+" in x]
    assert turns == ["a+512", "b+512", "b+512", "a+512", "a+76", "b+76"]
    # Three prefill chunks leave b in front; a whole block each, then the rest.
    assert [x for x in log if "+" not in x] == ["b16", "a16", "a3", "b3"]
    assert equal == sum(t % 3 != 0 for t in ids[1100:])
    assert prefill == [3.0, 3.0] and decode == [2.0, 2.0]
    log.clear()
    peer.measure((a, b), ids, gen, reverse=True)
    assert log[0] == "b+512"


def test_compare_reports_after_every_repeat_and_csv_has_raw_values():
    log: list[str] = []
    seen: list[tuple[int, bool]] = []
    rates = iter(range(1, 5))
    rows = peer.compare(
        (FakeSide("ours", log), FakeSide("peer", log, shift=1, seconds=3.0)),
        100,
        [7, 600],
        5,
        2,
        lambda: float(next(rates)),
        lambda rows, last: seen.append((len(rows), last)),
        lambda: 0.25,
    )
    assert seen == [(2, False), (4, True), (6, False), (8, True)]
    assert [(r.side, r.ctx_tokens, r.repeat) for r in rows] == [
        (side, ctx, repeat) for ctx in (7, 600) for repeat in (1, 2) for side in ("ours", "peer")
    ]
    # Repeats swap who begins: after the warm-up, ours, then the peer.
    assert [x for x in log if x.endswith("+7")] == ["ours+7", "peer+7", "peer+7", "ours+7"]
    assert rows[4].decode_bytes == 1602 and rows[5].decode_bytes is None
    assert {row.others_cpu for row in rows} == {0.25}
    assert [row.bandwidth for row in rows[::2]] == [1.0, 2.0, 3.0, 4.0]
    assert rows[4].bandwidth_share == pytest.approx(1602 * 5 / rows[4].decode_s / 3.0)
    read = list(csv.DictReader(io.StringIO(peer.to_csv(rows).decode())))
    assert float(read[4]["decode_s"]) == rows[4].decode_s
    assert (read[5]["decode_bytes"], read[5]["repeat"], read[5]["threads"]) == ("", "1", "2")


def test_the_extremes_hold_a_median_as_often_as_the_binomial_says():
    """The chance that n fair coins do not all fall on one side (scipy)."""
    for n in (2, 3, 5, 6, 20):
        inside = stats.binom.cdf(n - 1, n, 0.5) - stats.binom.pmf(0, n, 0.5)
        assert peer.coverage(n) == pytest.approx(inside)
    m = peer.median_of([4.0, 1.0, 9.0, 2.0])
    assert (m.estimate, m.low, m.high) == (np.median([4.0, 1.0, 9.0, 2.0]), 1.0, 9.0)
    assert not np.isfinite(peer.median_of([4.0]).half_width)


def test_the_table_shows_medians_of_the_repeats_own_ratios():
    def row(side, repeat, prefill_s, decode_s):
        n_bytes = 500 if side == "ds4" else None
        return peer.PeerRow(side, 2, repeat, 100, 10, prefill_s, decode_s, 9, n_bytes, 1e4, 0.0)

    rows = [
        row("ds4", 1, 1.0, 1.0),
        row("llama.cpp", 1, 2.0, 4.0),
        row("ds4", 2, 2.0, 2.0),
        row("llama.cpp", 2, 6.0, 2.0),
        row("ds4", 3, 4.0, 4.0),
        row("llama.cpp", 3, 4.0, 8.0),
    ]
    prefill, decode = (" ".join(line.split()) for line in table.lines(rows, 100))
    assert prefill == ("100 prefill 50.0 [25.0 - 100] 25.0 [16.7 - 50.0] 2.00 [1.00 - 3.00]")
    assert decode == (
        "100 decode 5.0 [2.5 - 10.0] 2.5 [1.2 - 5.0] 2.00 [1.00 - 4.00] 25% [12% - 50%] 9/10"
    )
    assert "75 %" in table.legend(3) and "no interval" in table.legend(1)
    assert "[" not in "".join(table.lines(rows[:2], 100))


@pytest.fixture
def fake_sides(monkeypatch):
    monkeypatch.setattr(run, "OURS", "tests.ds4bench.peer.sides:open_ours")
    monkeypatch.setattr(run, "THEIRS", "tests.ds4bench.peer.sides:open_theirs")
    monkeypatch.setattr(run, "require_llama_cpp", lambda: None)
    monkeypatch.setattr(run, "read_bandwidth", lambda threads: 1e9 * threads)
    monkeypatch.setattr(peer.psutil, "cpu_percent", lambda interval: 0.0)


def fake_model(folder: Path, **said: object) -> str:
    path = folder / "fake.gguf"
    path.write_text(json.dumps(said))
    return str(path)


def test_each_engine_runs_in_a_process_of_its_own(tmp_path, fake_sides):
    target = tmp_path / "rows.csv"
    line = ["-m", fake_model(tmp_path), "--contexts", "20,30", "--gen", "9", "--repeats", "2"]
    result = CliRunner().invoke(
        run.peer_command, [*line, "--threads", "3", "--csv", str(target)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    said = re.findall(
        r"^(\S+): (\d+) threads, pid (\d+), activations int8, kv official", result.output, re.M
    )
    assert [(name, threads) for name, threads, _ in said] == [("ds4", "3"), ("llama.cpp", "3")]
    pids = {int(pid) for _, _, pid in said}
    assert len(pids | {os.getpid()}) == 3
    assert not any(psutil.pid_exists(pid) for pid in pids)
    rows = list(csv.DictReader(io.StringIO(target.read_text())))
    assert [(r["ctx_tokens"], r["repeat"], r["side"]) for r in rows] == [
        (ctx, repeat, side)
        for ctx in ("20", "30")
        for repeat in ("1", "2")
        for side in ("ds4", "llama.cpp")
    ]
    assert rows[0]["decode_bytes"] == "1024" and rows[0]["bandwidth"] == "3000000000.0"
    assert len(re.findall(r"^ +(?:20|30) (?:prefill|decode) ", result.output, re.M)) == 4
    assert "of 2 repeats" in result.output


@pytest.mark.parametrize(
    ("said", "code", "text"),
    [
        ({"refused": "ds4"}, 3, "fake.gguf: expected a model, found JSON"),
        ({"refused": "llama.cpp"}, 3, "fake.gguf: expected a model, found JSON"),
        ({"n_ctx_most": 28}, 1, "--contexts: expected at most 19 tokens for this model, found 20"),
        (
            {"dies": "llama.cpp"},
            1,
            "llama.cpp: expected an answer to 'decode', found timed process",
        ),
    ],
)
def test_a_side_that_fails_ends_both_and_says_why(tmp_path, fake_sides, said, code, text):
    line = ["-m", fake_model(tmp_path, **said), "--contexts", "20", "--gen", "9"]
    result = CliRunner().invoke(run.peer_command, line)
    assert (result.exit_code, text in result.stderr) == (code, True), result.stderr


@pytest.mark.parametrize("text", ["", "0", "512,", "-4", "1e3", "²", "512;600"])
def test_bad_contexts_are_refused(text):
    with pytest.raises(OptionError, match="--contexts: expected"):
        run.parse_contexts(text)


def test_contexts_are_sorted_without_repeats():
    assert run.parse_contexts("2048, 512,512") == [512, 2048]


def test_missing_llama_cpp_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(BackendError, match=r"ds4bench\[peer\]"):
        llamacpp.LlamaCpp(Path("x.gguf"), 1)


def test_existing_csv_is_not_overwritten(tmp_path):
    target = tmp_path / "a.csv"
    target.write_text("kept")
    result = CliRunner().invoke(run.peer_command, ["-m", "none.gguf", "--csv", str(target)])
    assert result.exit_code == 2 and "--csv: expected a new file" in result.stderr
    assert target.read_text() == "kept"


def test_the_model_of_middle_size_is_made_once_and_named(tmp_path, monkeypatch, capsys):
    """A small shape stands in for the middle one: what is tested is when and where it is made."""
    made = []

    def write(path, shape, recipe, seed):
        made.append((shape.name, recipe))
        return write_model(path, named_shape("micro"), "q8_0", seed)

    monkeypatch.setattr(run, "write_model", write)
    path = run.middle_model(tmp_path / "new" / "models")
    assert made == [("mid", "iq2")]
    assert path.parent == tmp_path / "new" / "models" and path.is_file()
    assert str(path) in capsys.readouterr().err
    assert run.middle_model(tmp_path / "new" / "models") == path
    assert len(made) == 1 and "made earlier" in capsys.readouterr().err
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file"):
        run.middle_model(tmp_path / "file" / "models")


def test_the_command_as_the_front_page_types_it_makes_its_model(tmp_path, fake_sides, monkeypatch):
    made = Path(fake_model(tmp_path, n_ctx_most=100))
    monkeypatch.setattr(run, "middle_model", lambda: made)
    result = CliRunner().invoke(run.peer_command, ["--contexts", "512,2048,8192"])
    assert "--contexts: expected at most 36 tokens for this model, found 8192" in result.stderr


@pytest.mark.parametrize(
    ("info", "amx"), [(b"CPU : AMX_INT8 = 1 | ", True), (b"CPU : FMA = 1 | ", False)]
)
def test_a_build_for_amx_is_told_from_its_own_words(info, amx):
    assert llamacpp.built_with_amx(SimpleNamespace(llama_print_system_info=lambda: info)) is amx


@needs_llama
@pytest.mark.peer
def test_llama_cpp_steps_equal_one_batch(tmp_path):
    spec = SPECS["C"]
    path = write_trunk(tmp_path / "c.gguf", spec)
    ids = np.random.default_rng(0).integers(0, spec.n_vocab, 40).tolist()
    side = llamacpp.LlamaCpp(path, 2, "f32")
    try:
        rows = side.all_logits(ids)
        side.start(48)
        side.prefill(ids[:33])
        tops = []
        for token in ids[33:]:
            side.decode(token)
            tops.append(side.top())
    finally:
        side.close()
    assert np.isfinite(rows).all() and rows.std() > 1
    assert tops == rows[33:].argmax(axis=1).tolist()


@needs_llama
@pytest.mark.peer
def test_llama_cpp_refuses_a_bad_file(tmp_path):
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelFileError, match=r"bad\.gguf: expected"):
        llamacpp.LlamaCpp(path, 1)


@needs_llama
@pytest.mark.peer
def test_command_prints_both_sides(tmp_path):
    path = write_trunk(tmp_path / "c.gguf", SPECS["C"], "q8_0")
    target = tmp_path / "rows.csv"
    result = CliRunner().invoke(
        run.peer_command,
        [
            "-m",
            str(path),
            "--threads",
            "2",
            "--contexts",
            "70",
            "--gen",
            "9",
            "--repeats",
            "2",
            "--csv",
            str(target),
        ],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    assert "llama.cpp: 2 threads, KV f16" in result.output
    rows = list(csv.DictReader(io.StringIO(target.read_text())))
    assert [row["side"] for row in rows] == ["ds4", "llama.cpp"] * 2
    assert all(float(row["prefill_s"]) > 0 for row in rows)
    # Same model on both sides: rounding differs, most likely tokens mostly agree.
    assert int(rows[0]["top1_equal"]) >= 5


def test_options_of_the_engine_reach_it(tmp_path, monkeypatch):
    opened = []

    def open_engine(options):
        opened.append(options)
        raise EngineError("stop: expected no more, found an engine")

    monkeypatch.setattr(ours, "open_engine", open_engine)
    with pytest.raises(EngineError, match="stop"):
        ours.Ours().open(Path("m.gguf"), 3, "f32", "f32")
    [given] = opened
    assert (given.path, given.activations, given.kv, given.threads) == (
        Path("m.gguf"),
        "f32",
        "f32",
        3,
    )


def test_options_of_the_command_reach_both_sides(tmp_path, fake_sides):
    line = ["-m", fake_model(tmp_path), "--contexts", "20", "--gen", "1", "--repeats", "1"]
    for options, said in (
        (["--activations", "f32", "--kv", "f32", "--threads", "3"], "activations f32, kv f32"),
        ([], "activations int8, kv official"),
    ):
        result = CliRunner().invoke(run.peer_command, [*line, *options])
        assert result.exit_code == 0, result.output
        threads = 3 if options else 2
        assert len(re.findall(f": {threads} threads, pid .*, {said}$", result.output, re.M)) == 2


def test_our_side_answers_as_the_session_does(model_folder):
    """The same likeliest tokens and bytes as an engine that is asked directly."""
    path = model_file(model_folder, "micro", "q8_0")
    side = ours.open_worker()
    opened = side.engine.open(path, 1, "int8", "official")
    ids = list(range(3, 43))
    side.engine.start(64)
    side.engine.prefill(ids[:33])
    done = side.decode(tuple(ids[33:]))
    with open_engine(EngineOptions(path=path, threads=1)) as engine:
        rows, _ = engine.session(64).all_logits(ids)
        assert opened.n_vocab == engine.shape.n_vocab and opened.threads == 1
        assert opened.n_ctx_most == engine.shape.n_ctx_train
        _, weights = bind_trunk(engine.file)
        value_bytes = INDEX_VALUE_BYTES["official"]
        traffic = decode_traffic(engine.shape, weights, 40, idx_value_bytes=value_bytes)
    assert done.tops == tuple(rows[33:].argmax(axis=1).tolist())
    assert done.seconds > 0 and side.engine.step_bytes(40) == round(traffic.total)
