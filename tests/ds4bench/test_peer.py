"""The peer benchmark: fair turns, honest rows, and llama.cpp's wrapper where it is installed."""

from __future__ import annotations

import csv
import importlib.util
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from ds4bench.peer import llamacpp, run
from ds4bench.peer import measure as peer
from engine.errors import BackendError, EngineError, ModelFileError, OptionError, StoreError
from engine.models.shapes import named_shape
from engine.models.write import write_model
from tests.oracle.randfile import SPECS, write_trunk

needs_llama = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed"
)


class FakeSide:
    """Records its turns; a decoded token t makes t + `shift` (mod 3) the likeliest."""

    def __init__(self, name: str, log: list[str], shift: int = 0) -> None:
        self.name, self.log, self.shift = name, log, shift
        self.ids: list[int] = []
        self.n_ctx = 0

    def start(self, n_ctx: int) -> None:
        self.ids, self.n_ctx = [], n_ctx

    def prefill(self, ids: list[int]) -> None:
        self.log.append(f"{self.name}+{len(ids)}")
        self.ids += ids

    def decode(self, token: int) -> None:
        self.log.append(self.name)
        self.ids.append(token)

    def top(self) -> int:
        return self.ids[-1] + (self.shift if self.ids[-1] % 3 == 0 else 0)

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(peer, "PAUSE", 0)


def test_sides_alternate_and_see_the_same_ids():
    log: list[str] = []
    a, b = FakeSide("a", log), FakeSide("b", log, shift=1)
    rest = 3
    gen = peer.BLOCK + rest
    ids = list(range(1100 + gen))
    prefill, decode, equal = peer.measure((a, b), ids, gen)
    assert a.ids == b.ids == ids
    assert a.n_ctx == len(ids)
    turns = [x for x in log if "+" in x]
    assert turns == ["a+512", "b+512", "b+512", "a+512", "a+76", "b+76"]
    # Three prefill chunks leave b in front; a whole block each, then the rest.
    whole = peer.BLOCK
    assert "".join(x for x in log if "+" not in x) == (
        "b" * whole + "a" * whole + "a" * rest + "b" * rest
    )
    assert equal == sum(t % 3 != 0 for t in ids[1100:])
    assert min(prefill + decode) > 0


def test_compare_reports_after_every_context_and_csv_has_raw_values():
    log: list[str] = []
    seen: list[int] = []
    rows = peer.compare(
        (FakeSide("ours", log), FakeSide("peer", log)),
        100,
        [7, 600],
        5,
        1e9,
        lambda n: 1000 + n,
        lambda rows: seen.append(len(rows)),
        lambda: 0.25,
    )
    assert seen == [2, 4]
    assert [(r.side, r.ctx_tokens) for r in rows] == [
        ("ours", 7),
        ("peer", 7),
        ("ours", 600),
        ("peer", 600),
    ]
    assert rows[2].decode_bytes == 1602 and rows[3].decode_bytes is None
    assert {row.others_cpu for row in rows} == {0.25}
    share = rows[2].bandwidth_share
    assert share == pytest.approx(1602 * 5 / rows[2].decode_s / 1e9)
    table = list(csv.DictReader(io.StringIO(peer.to_csv(rows).decode())))
    assert float(table[2]["decode_s"]) == rows[2].decode_s
    assert table[3]["decode_bytes"] == ""


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


def test_the_command_as_the_front_page_types_it_makes_its_model(monkeypatch):
    class Reached(Exception):
        pass

    def opened(options):
        assert options.path == Path("made.gguf")
        raise Reached

    monkeypatch.setattr(run, "require_llama_cpp", lambda: None)
    monkeypatch.setattr(run, "middle_model", lambda: Path("made.gguf"))
    monkeypatch.setattr(run, "open_engine", opened)
    result = CliRunner().invoke(run.peer_command, ["--contexts", "512,2048,8192"])
    assert isinstance(result.exception, Reached), result.output


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
        ["-m", str(path), "--threads", "2", "--contexts", "70", "--gen", "9", "--csv", str(target)],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    assert "llama.cpp: KV f16" in result.output
    table = list(csv.DictReader(io.StringIO(target.read_text())))
    assert [row["side"] for row in table] == ["ds4", "llama.cpp"]
    assert all(float(row["prefill_s"]) > 0 for row in table)
    # Same model on both sides: rounding differs, most likely tokens mostly agree.
    assert int(table[0]["top1_equal"]) >= 5


def test_options_of_the_engine_reach_it(tmp_path, monkeypatch):
    opened = []

    def open_engine(options):
        opened.append(options)
        raise EngineError("stop: expected no more, found an engine")

    monkeypatch.setattr(run, "open_engine", open_engine)
    monkeypatch.setattr(run, "require_llama_cpp", lambda: None)
    line = ["-m", "m.gguf", "--activations", "f32", "--kv", "f32", "--threads", "3"]
    for arguments in (line, line[:2]):
        assert CliRunner().invoke(run.peer_command, arguments).exit_code == 1
    given, bare = ((o.activations, o.kv, o.threads) for o in opened)
    assert given == ("f32", "f32", 3) and bare == ("int8", "official", None)
