"""One timeline: sync, eval, verify, rewind, save and restore give the same bits on every way."""

from __future__ import annotations

import numpy as np
import pytest

from engine.cache.kv import ROLLBACK
from engine.cache.snapshot import snapshot_bytes
from engine.errors import ContextError, RebuildNeeded, SnapshotError
from tests.engine.models import open_model

CTX = 1024


@pytest.fixture(scope="module")
def engine(model_folder):
    with open_model(model_folder, "micro", "q8_0") as engine:
        yield engine


@pytest.fixture(scope="module")
def text(engine):
    rng = np.random.default_rng(5)
    return rng.integers(3, engine.shape.n_vocab, 700).tolist()


@pytest.fixture(scope="module")
def reference(engine, text):
    """Logits after every token, one token at a time."""
    session = engine.session(CTX)
    return np.stack([np.array(session.eval(t)) for t in text])


def test_decode_equals_prefill(engine, text, reference):
    logits, _ = engine.session(CTX).all_logits(text)

    np.testing.assert_array_equal(logits, reference)


def test_verify_equals_single_tokens(engine, text, reference):
    session = engine.session(CTX)
    at = 0
    for n in [1, 2, 3, 4, 8, 16, 5, 2, 7, 1] * 8:
        logits, states = session.verify(text[at : at + n])
        np.testing.assert_array_equal(logits, reference[at : at + n])
        assert states.shape == (n, engine.shape.n_hc, engine.shape.n_embd)
        at += n
    np.testing.assert_array_equal(session.logits, reference[at - 1])


def test_restored_sessions_go_on_as_if_nothing_had_happened(engine, text, reference):
    """At every position of a 600-token text: save, restore elsewhere, 64 more tokens."""
    walker = engine.session(CTX)
    other = engine.session(CTX)
    for n in range(1, 601):
        walker.eval(text[n - 1])
        saved = walker.save()
        assert saved.n_bytes == snapshot_bytes(engine.shape, n)
        other.restore(saved)
        assert bytes(other.save().data) == bytes(saved.data)
        logits, _ = other.all_logits(text[n : n + 64])
        np.testing.assert_array_equal(logits, reference[n : n + 64])


# Around the window, the compressors' windows and the ring's wrap.
@pytest.mark.parametrize("n", [3, 4, 5, 7, 8, 9, 124, 127, 128, 129, 131, 132, 255, 256, 257, 600])
def test_state_after_rewind_is_that_of_a_fresh_prefill(engine, text, reference, n):
    for taken_back in (1, 2, 3, 4, 5, 8, ROLLBACK):
        session = engine.session(CTX)
        session.sync(text[:n])
        rng = np.random.default_rng(n)
        wrong = rng.integers(3, engine.shape.n_vocab, taken_back).tolist()
        session.verify(wrong)
        session.rewind(n, reference[n - 1])
        fresh = engine.session(CTX)
        fresh.sync(text[:n])

        assert bytes(session.save().data) == bytes(fresh.save().data)
        np.testing.assert_array_equal(session.verify(text[n : n + 9])[0], reference[n : n + 9])


def test_sync_evaluates_only_what_is_new(engine, text, reference):
    session = engine.session(CTX)
    done = []

    assert session.sync(text[:300], lambda at, total: done.append((at, total))) == 300
    assert done[-1] == (300, 300)
    assert session.sync(text[:310]) == 10
    assert session.sync(text[:310]) == 0
    np.testing.assert_array_equal(session.logits, reference[309])
    assert session.sync(text[:305]) == 1, "a little shorter: the last token again"
    np.testing.assert_array_equal(session.logits, reference[304])
    with pytest.raises(RebuildNeeded, match="differs from token 100"):
        session.sync([*text[:100], 5 if text[100] != 5 else 6])
    assert session.tokens == text[:305]


def test_logits_after_a_rewind_must_be_evaluated_or_given(engine, text, reference):
    session = engine.session(CTX)
    session.sync(text[:50])
    session.rewind(45)
    with pytest.raises(RebuildNeeded):
        _ = session.logits
    session.eval(text[45])
    np.testing.assert_array_equal(session.logits, reference[45])


def test_rewind_is_refused_where_rows_are_gone(engine, text):
    session = engine.session(CTX)
    session.sync(text[:100])
    with pytest.raises(RebuildNeeded, match="expected 84 to 100 tokens, found 83"):
        session.rewind(83)
    saved = session.save()
    session.restore(saved)
    with pytest.raises(RebuildNeeded):
        session.rewind(99)


@pytest.mark.parametrize("tokens", [[-1], [10**6], [2**40]])
def test_ids_outside_the_vocabulary_never_reach_a_kernel(engine, tokens):
    session = engine.session(CTX)
    with pytest.raises(ContextError, match="expected an id from 0"):
        session.sync(tokens)
    assert session.n_past == 0


def test_context_is_not_exceeded(engine, text):
    session = engine.session(64)
    with pytest.raises(ContextError, match="at most 64 tokens, found 0 and 65 more"):
        session.sync(text[:65])
    session.sync(text[:64])
    with pytest.raises(ContextError):
        session.eval(5)
    with pytest.raises(ContextError, match="expected 1 to"):
        engine.session(engine.shape.n_ctx_train + 1)


def test_snapshot_of_another_storage_is_refused(engine, model_folder, text):
    session = engine.session(CTX)
    session.sync(text[:20])
    with open_model(model_folder, "micro", "q8_0", kv="f32") as other:
        target = other.session(CTX)
        target.sync(text[:3])
        with pytest.raises(SnapshotError, match="stored as"):
            target.restore(session.save())
        assert target.tokens == text[:3]
    small = engine.session(16)
    with pytest.raises(SnapshotError, match="at most 16 tokens, found 20"):
        small.restore(session.save())


def test_session_file_keeps_its_identity(engine, text, reference, tmp_path):
    path = tmp_path / "a.session"
    session = engine.session(CTX)
    session.sync(text[:150])
    session.save_file(path, title="first – title")
    loaded = engine.load_session(path)
    identity = loaded.identity

    assert (loaded.tokens, loaded.ctx) == (text[:150], CTX)
    assert identity.title == "first – title"
    np.testing.assert_array_equal(loaded.eval(text[150]), reference[150])
    loaded.save_file(path)
    again = engine.load_session(path)
    assert again.identity == identity
    assert again.tokens == text[:151]


def test_damaged_session_files_are_refused(engine, text, tmp_path):
    path = tmp_path / "a.session"
    session = engine.session(CTX)
    session.sync(text[:40])
    session.save_file(path)
    good = path.read_bytes()
    rng = np.random.default_rng(1)
    for case in range(200):
        bad = bytearray(good)
        if case % 2:
            bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        else:
            del bad[rng.integers(len(bad)) :]
        path.write_bytes(bad)
        with pytest.raises(SnapshotError):
            engine.load_session(path)


def test_session_file_of_another_model_is_refused(engine, model_folder, text, tmp_path):
    path = tmp_path / "a.session"
    session = engine.session(CTX)
    session.sync(text[:40])
    session.save_file(path)
    with (
        open_model(model_folder, "micro", "f32") as other,
        pytest.raises(SnapshotError, match="session of this model"),
    ):
        other.load_session(path)
