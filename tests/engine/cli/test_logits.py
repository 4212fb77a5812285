"""`ds4 logits`: token files, arrays on disk, nothing replaced by a failure."""

from __future__ import annotations

import numpy as np
import pytest

from engine.cli import logits_cmd
from engine.errors import NonFiniteError
from engine.models.bundled import bundled_model


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("[0, 5,6\n 7\t8 ,9]\n")
    return path


def test_last_position(ds4, engine, tokens, tmp_path):
    out = tmp_path / "l.npy"

    status, stdout, err = ds4("logits", "-m", "m", "--tokens", tokens, "--out", out)

    assert (status, stdout, err) == (0, "", "")
    array = np.load(out)
    assert array.dtype == np.float32
    assert array.shape == (1, engine.shape.n_vocab)
    assert engine.sessions[-1].tokens == [0, 5, 6, 7, 8, 9]
    assert engine.sessions[-1].ctx == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ids.txt", "l.npy"]


def test_values_are_checked_as_often_as_asked(ds4, engine, tokens, tmp_path):
    arguments = ("-m", "m", "--tokens", tokens, "--out", tmp_path / "l.npy")
    assert ds4("logits", *arguments, "--check-values", "always")[0] == 0
    assert engine.opened[0].check_values == "always"


def test_all_positions_and_routing(ds4, engine, tokens, tmp_path):
    out, routing = tmp_path / "l.npy", tmp_path / "r.npz"

    status, _, _ = ds4(
        "logits", "-m", "m", "--tokens", tokens, "--out", out, "--all-positions",
        "--routing", routing,
    )  # fmt: skip

    assert status == 0
    expected, _ = engine.sessions[-1].all_logits([0] * 6)
    np.testing.assert_array_equal(np.load(out), expected)
    with np.load(routing) as saved:
        assert sorted(saved) == ["ids", "margin"]
        assert (saved["ids"].shape, saved["ids"].dtype) == ((3, 6, 2), np.int32)
        assert (saved["margin"].shape, saved["margin"].dtype) == ((3, 6), np.float32)


def test_routing_with_the_last_position_only(ds4, engine, tokens, tmp_path):
    out, routing = tmp_path / "l.npy", tmp_path / "r.npz"

    ds4("logits", "-m", "m", "--tokens", tokens, "--out", out, "--routing", routing)

    expected, _ = engine.sessions[-1].all_logits([0] * 6)
    np.testing.assert_array_equal(np.load(out), expected[-1:])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "at least one"),
        ("[]", "at least one"),
        ("1 2 x", "'x' at item 2"),
        ("1,,2", "'' at item 1"),
        ("-1", "'-1' at item 0"),
        ("1.5", "'1.5'"),
        ("9" * 5000, "at item 0"),
        ("1 999999", "999999 at 1"),
        ("\u0663", "at item 0"),
    ],
)
def test_bad_token_files(ds4, engine, tmp_path, text, found):
    ids, out = tmp_path / "ids", tmp_path / "out.npy"
    ids.write_text(text, encoding="utf-8")
    out.write_bytes(b"old")

    status, _, err = ds4("logits", "-m", "m", "--tokens", ids, "--out", out)

    assert status == 2
    assert err.startswith("ds4: error: --tokens: expected ")
    assert found in err
    assert len(err.splitlines()) == 1
    assert out.read_bytes() == b"old"


def test_outputs_survive_a_failure(ds4, engine, tokens, tmp_path):
    out, routing = tmp_path / "l.npy", tmp_path / "r.npz"
    out.write_bytes(b"old")
    routing.write_bytes(b"older")

    def fail():
        raise NonFiniteError("logits: expected finite values, found 1")

    engine.before_token = fail
    status, _, err = ds4(
        "logits", "-m", "m", "--tokens", tokens, "--out", out, "--routing", routing
    )

    assert (status, err) == (1, "ds4: error: logits: expected finite values, found 1\n")
    assert (out.read_bytes(), routing.read_bytes()) == (b"old", b"older")
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--out: expected a value, found none"),
        (["--out", "/nonexistent/x.npy"], "--out: expected an existing folder"),
        (["--out", "o.npy", "--routing", "/nonexistent/r"], "--routing: expected an existing"),
        (["--out", "o.npy", "--routing", "./o.npy"], "another file than --out"),
    ],
)
def test_bad_outputs(ds4, engine, tokens, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)

    status, _, err = ds4("logits", "-m", "m", "--tokens", tokens, *args)

    assert status == 2
    assert message in err
    assert engine.opened == []
    assert [p.name for p in tmp_path.iterdir()] == ["ids.txt"]


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("--backend reference", "backend", "reference"),
        ("--cuda", "backend", "cuda"),
        ("-t 3", "threads", 3),
        ("--activations f32", "activations", "f32"),
        ("--quality", "activations", "f32"),
        ("--kv f32", "kv", "f32"),
        ("--repack off", "repack", "off"),
        ("--cuda --launch numba", "launch", "numba"),
        ("--cuda --residency mapped", "residency", "mapped"),
        ("--cuda --residency-gib 1.5", "residency_gib", 1.5),
        ("--cuda --device 3", "device", 3),
    ],
)
def test_an_option_reaches_the_engine(ds4, engine, tokens, tmp_path, line, field, value):
    for more in (line, ""):
        status, _, err = ds4("logits", "-m", "m", "--tokens", tokens, "--out", tmp_path / "l.npy",
                             *more.split())  # fmt: skip
        assert status == 0, err
    given, bare = engine.opened
    assert getattr(given, field) == value != getattr(bare, field)


def test_nano_chooses_a_bundled_model(ds4, engine, tokens, tmp_path):
    assert ds4("logits", "--nano", "q8", "--tokens", tokens, "--out", tmp_path / "l.npy")[0] == 0
    assert engine.opened[-1].path == bundled_model("base", "q8").path


def test_files_are_looked_up_in_the_named_folder(ds4, engine, tokens, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    status, _, err = ds4("logits", "-m", "m", "--chdir", tmp_path, "--tokens", tokens.name,
                         "--out", "l.npy")  # fmt: skip
    assert status == 0, err
    assert (tmp_path / "l.npy").exists()


def test_warm_weights_reads_the_file_before_it_is_opened(
    ds4, engine, tokens, tmp_path, monkeypatch
):
    read = []
    monkeypatch.setattr(
        logits_cmd, "read_through", lambda path: read.append((str(path), len(engine.opened)))
    )
    for more in ((), ("--warm-weights",)):
        ds4("logits", "-m", "m", "--tokens", tokens, "--out", tmp_path / "l.npy", *more)
    assert read == [("m", 1)]
