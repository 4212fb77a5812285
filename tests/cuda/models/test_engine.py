"""Whole models on the CUDA kernel set: logits and choices of the CPU's, exact whatever the batch.

Bounds. Both sets quantise activations by the same rule and multiply integers exactly, so they part
only by the order in which float32 terms are added. Where that moves a value across a rounding step
(int8 activations, FP8 and FP4 rows, float16) it costs one step there, and steps add up over layers:
the stored-row noise of whole models is rms 0.04-0.10 (docs/log/2026-11.md, official KV). f32
models with f32 rows have no such steps, and agree to float32 rounding.
"""

from __future__ import annotations

import numpy as np
import pytest

from engine.spec.modes import open_decoder
from engine.spec.policy import Greedy
from tests.engine.models import open_model

N_TEXT = 150  # beyond the window of 128 and one window of the ratio-128 layers
CTX = 320


def text_of(engine, n=N_TEXT):
    return np.random.default_rng(5).integers(3, engine.shape.n_vocab, n).tolist()


def both(model_folder, shape, recipe, **options):
    """Logits of every token of a text, on the CPU and on the device."""
    with open_model(model_folder, shape, recipe, **options) as engine:
        text = text_of(engine)
        cpu, routed = engine.session(CTX).all_logits(text, routing=True)
    with open_model(model_folder, shape, recipe, backend="cuda", **options) as engine:
        cuda, picked = engine.session(CTX).all_logits(text, routing=True)
    return cpu, cuda, routed, picked


SLOW = pytest.mark.slow  # a minute or more each in simulation


@pytest.mark.parametrize(
    ("shape", "recipe"),
    [
        ("micro", "f32"),
        pytest.param("micro", "f16", marks=SLOW),
        pytest.param("tiny-wide", "f32", marks=SLOW),
        pytest.param("tiny-wide", "f16", marks=SLOW),
    ],
)
def test_float_models_agree_to_rounding(on_device, model_folder, shape, recipe):
    cpu, cuda, routed, picked = both(model_folder, shape, recipe, kv="f32")

    np.testing.assert_array_equal(picked.ids, routed.ids)
    # Float32 sums of up to 1024 terms in another order, through four layers.
    np.testing.assert_allclose(cuda, cpu, rtol=0, atol=2e-4 * np.abs(cpu).max())


@pytest.mark.parametrize(
    ("shape", "recipe"),
    [
        ("micro", "iq2"),
        ("micro", "q4"),
        pytest.param("micro", "q8_0", marks=SLOW),
        pytest.param("tiny", "iq2", marks=SLOW),
        pytest.param("tiny", "q4", marks=SLOW),
        pytest.param("tiny", "q8_0", marks=SLOW),
    ],
)
def test_quantised_models_agree_and_choose_alike(on_device, model_folder, shape, recipe):
    cpu, cuda, _, _ = both(model_folder, shape, recipe)
    error = np.sqrt(np.mean((cuda - cpu) ** 2)) / cpu.std()

    assert error < 0.05, error
    top = np.partition(cpu, -2, axis=1)[:, -2:]
    clear = top[:, 1] - top[:, 0] > 4 * np.abs(cuda - cpu).max(axis=1)
    # A random model's best two are close: 0.46 to 0.55 of its rows are clear. Fewer than a quarter
    # would make the next line say little.
    assert clear.mean() > 0.25, clear.mean()
    np.testing.assert_array_equal(cuda.argmax(1)[clear], cpu.argmax(1)[clear])


@pytest.mark.parametrize(
    ("on_device", "recipe"),
    [
        (False, "iq2"),
        (True, "f16"),
        pytest.param(True, "iq2", marks=SLOW),
        pytest.param(False, "f16", marks=SLOW),
    ],
    indirect=["on_device"],
)
def test_rows_are_exact_whatever_the_batch(on_device, model_folder, recipe):
    """One by one, in verifications and in chunks of any size: the same bits."""
    with open_model(model_folder, "micro", recipe, backend="cuda") as engine:
        text = text_of(engine)
        whole, _ = engine.session(CTX).all_logits(text)
        session = engine.session(CTX)
        session.sync(text[:100])
        at = 100
        np.testing.assert_array_equal(session.logits, whole[at - 1])
        for n in (1, 1, 3, 2, 16, 1, 5, 9):
            logits, _ = session.verify(text[at : at + n])
            np.testing.assert_array_equal(np.asarray(logits), whole[at : at + n])
            at += n
        saved = session.save()
        other = engine.session(CTX)
        other.restore(saved)
        for token in text[at : at + 4]:
            np.testing.assert_array_equal(
                np.asarray(other.eval(token)), np.asarray(session.eval(token))
            )


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("mtp-strict", marks=SLOW),
        pytest.param("mtp-batched", marks=SLOW),
        "mtp-combined",
    ],
)
def test_speculative_modes_emit_plain_s_tokens(on_device, model_folder, mode):
    with open_model(model_folder, "micro", "iq2", mtp=True, backend="cuda") as engine:
        text = text_of(engine, 126)

        def run(name, draft):
            session = engine.session(CTX)
            session.sync(text)
            decoder = open_decoder(session, name, Greedy(banned=(0,)), draft=draft)
            out, token = [], decoder.start()
            while len(out) < 12:
                result = decoder.step(token, 12 - len(out))
                out += result.tokens
                token = result.next
            return out, bytes(session.save().data)

        assert run(mode, 2) == run("plain", 1)


def test_greedy_text_equals_the_processor_s(on_device, model_folder):
    def run(**options):
        with open_model(model_folder, "micro", "q8_0", **options) as engine:
            session = engine.session(CTX)
            session.sync(text_of(engine, 40))
            out = []
            token = Greedy().choose(session.last, 0)
            for _ in range(24):
                out.append(token)
                token = Greedy().choose(session.eval(token), 0)
            return out

    assert run(backend="cuda") == run()


def test_device_rows_of_a_session_file_are_read_by_the_processor(on_device, model_folder, tmp_path):
    with open_model(model_folder, "micro", "q8_0", backend="cuda") as engine:
        session = engine.session(CTX)
        session.sync(text_of(engine, 70))
        session.save_file(tmp_path / "s.ds4", "from the device")
        expected = session.logits
    with open_model(model_folder, "micro", "q8_0") as engine:
        session = engine.load_session(tmp_path / "s.ds4")
        np.testing.assert_array_equal(session.logits, expected)
        session.eval(text_of(engine, 71)[-1])
        assert np.isfinite(session.logits).all()
