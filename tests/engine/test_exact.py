"""Row exactness of the whole pass: same bits whatever the chunk, the threads or the batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from engine import open_engine
from tests.engine.models import open_model

N = 300  # past the window, two 128-windows and the top k
CASES = [
    ("micro", "f32", "f32", "f32"),
    ("micro", "q8_0", "int8", "official"),
    ("tiny-wide", "f16", "f32", "official"),
    ("micro", "iq2", "int8", "official"),
    ("micro", "iq2", "f32", "f32"),
    ("micro", "q4", "int8", "f32"),
]


@pytest.mark.parametrize(("shape", "recipe", "activations", "kv"), CASES)
def test_bits_do_not_depend_on_threads_chunk_or_repacking(
    model_folder, shape, recipe, activations, kv
):
    options = {"activations": activations, "kv": kv}
    with open_model(model_folder, shape, recipe, **options) as engine:
        tokens = np.random.default_rng(3).integers(3, engine.shape.n_vocab, N).tolist()
        base, routing = engine.session(N).all_logits(tokens, routing=True)
        assert np.isfinite(base).all()
        start = engine.options
    for threads in (1, 2):
        for chunk in (1, 2, 3, 7, 16, 32, 300):
            for repack in ("off", "on"):
                if repack == "on" and (activations == "f32" or chunk not in (1, 7, 300)):
                    continue
                changed = dataclasses.replace(
                    start, threads=threads, prefill_chunk=chunk, repack=repack
                )
                n = N if chunk > 3 else 150  # single tokens are slow; 150 is past a 128-window
                with open_engine(changed) as engine:
                    logits, ids = engine.session(N).all_logits(tokens[:n], routing=True)
                np.testing.assert_array_equal(logits, base[:n], err_msg=str(changed))
                np.testing.assert_array_equal(ids.ids, routing.ids[:, :n])
                np.testing.assert_array_equal(ids.margin, routing.margin[:, :n])


def test_two_runs_give_one_result(model_folder):
    with open_model(model_folder, "micro", "iq2") as engine:
        tokens = list(range(3, 103))
        first, _ = engine.session(200).all_logits(tokens)
        for _ in range(10):
            again, _ = engine.session(200).all_logits(tokens)
            np.testing.assert_array_equal(again, first)
