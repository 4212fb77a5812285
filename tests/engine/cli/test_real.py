"""The command over a generated model: the same tokens and logits as the engine used directly."""

from __future__ import annotations

import numpy as np
import pytest

from engine.text import chat
from tests.engine.models import model_file, open_model

ARGS = ("--temp", 0, "--threads", 2, "--repack", "off")


@pytest.fixture(scope="module")
def path(model_folder):
    return model_file(model_folder, "micro")


def recite(engine, tokens, n):
    """Greedy continuation by hand."""
    session = engine.session(256)
    session.sync(tokens)
    made = []
    for _ in range(n):
        token = int(np.argmax(session.logits))
        if token in engine.tokenizer.eos_ids:
            break
        made.append(token)
        session.eval(token)
    return made


def test_one_shot_equals_the_engine(ds4, path, model_folder):
    with open_model(model_folder, "micro") as engine:
        spans = chat.render_chat(
            [chat.Message("system", chat.DEFAULT_SYSTEM), chat.Message("user", "Count.")],
            "none",
            256,
        )
        made = recite(engine, engine.tokenizer.encode_spans(spans).ids, 12)
        expected = engine.tokenizer.decode(made)

    status, out, err = ds4("-m", path, "-p", "Count.", "--nothink", "-n", 12, "-c", 256, *ARGS)

    assert status == 0, err
    assert out == expected + ("" if expected.endswith("\n") else "\n")
    assert f"generation: {len(made)} tokens" in err


def test_saved_session_goes_on_as_if_never_interrupted(ds4, path, tmp_path):
    """Raw text: 6 tokens, save, load, and the prompt of the second call appended."""
    from engine import EngineOptions, open_engine

    saved = tmp_path / "talk"
    common = ("-m", path, "--raw", "-n", 6, "-c", 200, *ARGS, "--session", saved)
    assert ds4(*common, "-p", "One two")[0] == 0
    assert ds4(*common, "-p", " three four")[0] == 0

    with open_engine(EngineOptions(path=path, threads=2, repack="off")) as engine:
        tokenizer = engine.tokenizer
        tokens = [tokenizer.bos_id, *tokenizer.encode("One two").ids]
        tokens += recite(engine, tokens, 6)
        tokens += tokenizer.encode(" three four").ids
        tokens += recite(engine, tokens, 6)
        loaded = engine.load_session(saved)
        whole = engine.session(200)
        whole.sync(tokens)

        assert loaded.tokens == tokens
        np.testing.assert_array_equal(loaded.logits, whole.logits)


@pytest.mark.parametrize("all_positions", [True, False])
def test_logits_equal_the_engines(ds4, path, tmp_path, model_folder, all_positions):
    ids, out, routing = tmp_path / "ids", tmp_path / "l.npy", tmp_path / "r.npz"
    tokens = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3] * 5
    ids.write_text(" ".join(map(str, tokens)))
    with open_model(model_folder, "micro", activations="f32", kv="f32") as engine:
        expected, routed = engine.session(len(tokens)).all_logits(tokens, routing=True)

    flags = ["--all-positions", "--routing", routing] if all_positions else []
    status, _, err = ds4(
        *("logits", "-m", path, "--tokens", ids, "--out", out, *flags),
        *("--activations", "f32", "--kv", "f32", "--threads", 2, "--repack", "off"),
    )

    assert status == 0, err
    np.testing.assert_array_equal(np.load(out), expected if all_positions else expected[-1:])
    if all_positions:
        with np.load(routing) as arrays:
            np.testing.assert_array_equal(arrays["ids"], routed.ids)
            np.testing.assert_array_equal(arrays["margin"], routed.margin)


def test_context_beyond_the_models(ds4, path):
    status, out, err = ds4("-m", path, "-p", "x", "-c", 1 << 30, *ARGS)

    assert (status, out) == (1, "")
    assert "context: expected 1 to" in err
    assert len(err.splitlines()) == 1


def test_damaged_session_file(ds4, path, tmp_path):
    saved = tmp_path / "talk"
    ds4("-m", path, "-p", "x", "-n", 1, "-c", 100, *ARGS, "--session", saved)
    data = bytearray(saved.read_bytes())
    data[len(data) // 2] ^= 1
    saved.write_bytes(data)

    status, _, err = ds4("-m", path, "-p", "x", "-n", 1, *ARGS, "--session", saved)

    assert status == 1
    assert "expected an intact file" in err
    assert saved.read_bytes() == data


def test_file_template_equals_our_rendering(ds4, path, model_folder):
    args = ("-m", path, "-p", "Hi <think>", "-n", 6, "-c", 256, *ARGS)

    assert ds4(*args)[1] == ds4(*args, "--chat-template")[1]


@pytest.mark.peer
def test_tokens_equal_llama_cpps(path, model_folder):
    llama_cpp = pytest.importorskip("llama_cpp")
    peer = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    text = "Hello, wörld 12345 漢字かな\r\n\t — don't (stop) 👩‍👩‍👧"
    with open_model(model_folder, "micro") as engine:
        spans = chat.render_chat([chat.Message("user", text)], "high", 256)
        ids = engine.tokenizer.encode_spans(spans).ids
    rendered = "".join(span.text for span in spans)

    assert peer.tokenize(rendered.encode(), add_bos=False, special=True) == ids
    peer.close()
