"""What only a GPU can show: graphs against single launches, long contexts, poisoned memory."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from engine import EngineOptions, open_engine
from engine.models.bundled import bundled_model
from tests.cuda.conftest import ON_GPU
from tests.engine.models import open_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not ON_GPU, reason="needs DS4_TEST_DEVICE=gpu")]


def steps(engine, text, n):
    """Logits of a prefill, of single steps and of verifications, as bytes."""
    session = engine.session(len(text) + 4 * n + 32)
    session.sync(text)
    seen = [session.logits.tobytes()]
    token = int(np.argmax(session.logits))
    for _ in range(n):
        logits = np.asarray(session.eval(token))
        seen.append(logits.tobytes())
        token = int(np.argmax(logits))
    for rows in (2, 3, 3, 3, 5, 2):
        logits, _ = session.verify([(token + i) % engine.shape.n_vocab for i in range(rows)])
        seen.append(np.asarray(logits).tobytes())
    return seen, bytes(session.save().data)


@pytest.mark.parametrize("recipe", ["iq2", "q4", "f16"])
def test_graphs_and_prepared_launches_give_the_same_bits(model_folder, recipe):
    text = np.random.default_rng(3).integers(3, 500, 300).tolist()

    def run(launch):
        with open_model(model_folder, "micro", recipe, backend="cuda", launch=launch) as engine:
            return steps(engine, text, 30)

    assert run("graph") == run("prepared")


@pytest.mark.parametrize(
    "variant", ["-branches", "-early", "-horizon", "-branches,-early,-horizon"]
)
def test_each_step_of_decoding_leaves_the_bits(model_folder, monkeypatch, variant):
    text = np.random.default_rng(3).integers(3, 500, 300).tolist()

    def run(words):
        monkeypatch.setenv("DS4_CUDA_VARIANT", words)
        with open_model(model_folder, "micro", "iq2", backend="cuda") as engine:
            assert engine.facts()["variant"] == (words or "all")
            return steps(engine, text, 30)

    assert run("") == run(variant)


def test_another_thread_may_use_what_one_has_opened(model_folder):
    text = np.random.default_rng(3).integers(3, 500, 100).tolist()
    with open_model(model_folder, "micro", "iq2", backend="cuda") as engine:
        expected, found = steps(engine, text, 5), []
        thread = threading.Thread(target=lambda: found.append(steps(engine, text, 5)))
        thread.start()
        thread.join()
    assert found == [expected]


def test_a_run_repeats_itself(model_folder):
    text = np.random.default_rng(4).integers(3, 500, 200).tolist()

    def run():
        with open_model(model_folder, "micro", "iq2", backend="cuda") as engine:
            return steps(engine, text, 20)

    assert run() == run()


def test_65536_tokens_whatever_the_chunk():
    path = bundled_model().path

    def run(chunk):
        options = EngineOptions(path, backend="cuda", prefill_chunk=chunk)
        with open_engine(options) as engine:
            text = np.random.default_rng(6).integers(3, 1000, 65536).tolist()
            return steps(engine, text, 4)

    assert run(2048) == run(768)


def test_restored_snapshots_go_on_alike(model_folder):
    with open_model(model_folder, "micro", "q8_0", backend="cuda") as engine:
        text = np.random.default_rng(5).integers(3, 500, 260).tolist()
        session, other = engine.session(512), engine.session(512)
        session.sync(text)
        other.restore(session.save())
        for token in text[:40]:
            expected = np.asarray(session.eval(token)).tobytes()
            assert np.asarray(other.eval(token)).tobytes() == expected
