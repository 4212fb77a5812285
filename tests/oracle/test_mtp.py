"""The MTP block's logits against HF's decoder layer: both file layouts, any history."""

from __future__ import annotations

import numpy as np
import pytest

from engine import EngineOptions, open_engine
from engine.spec.mtp import MtpDrafter as Drafter
from tests.engine.models import model_file

pytest.importorskip("transformers")  # collected by make test too, which has no torch
from tests.oracle.hf import hf_model, hf_mtp_logits

pytestmark = pytest.mark.oracle

N = 170  # the block's window slides from 128 on


@pytest.fixture(scope="module")
def paths(model_folder):
    return {
        "trunk": model_file(model_folder, "micro", "f32"),
        "antirez": model_file(model_folder, "micro", "f32", draft=True),
        "llama": model_file(model_folder, "micro", "f32", draft=True, layout="llama"),
    }


@pytest.fixture(scope="module")
def ids(paths):
    return np.random.default_rng(8).integers(3, 500, N).tolist()


@pytest.fixture(scope="module")
def expected(paths, ids):
    """Row p: from the state after token p and the embedding of token p + 1."""
    logits, _ = hf_mtp_logits(hf_model(paths["trunk"]), paths["antirez"], ids)
    return logits


def _engine(paths, layout):
    return open_engine(
        EngineOptions(
            path=paths["trunk"],
            mtp_path=paths[layout],
            activations="f32",
            kv="f32",
            threads=2,
        )
    )


@pytest.mark.parametrize("layout", ["antirez", "llama"])
def test_block_equals_the_oracle_at_every_position(paths, ids, expected, layout):
    with _engine(paths, layout) as engine:
        session = engine.session(N)
        session.sync(ids[:1])
        drafter = Drafter(session)
        worst = 0.0
        for p in range(1, N):
            assert drafter.ready()
            logits, _ = drafter.draft(session.hidden, ids[p], p)
            worst = max(worst, float(np.abs(logits - expected[p - 1]).max()))
            session.eval(ids[p])
            drafter.committed(p + 1)
    assert worst < 1e-3
    assert expected.std() > 1, "a flat oracle would prove nothing"


@pytest.mark.parametrize("known", [2, 20, 128, 150])
def test_window_filled_from_a_prompt_is_the_true_one(paths, ids, expected, known):
    """After a prefill the window holds what step-by-step drafting would have left."""
    with _engine(paths, "antirez") as engine:
        session = engine.session(N)
        session.sync(ids[:known])
        drafter = Drafter(session)
        assert drafter.ready()
        logits, _ = drafter.draft(session.hidden, ids[known], known)
        # Filled rows equal the oracle's; 127 of them and the new one make a full window.
        assert float(np.abs(logits - expected[known - 1]).max()) < 1e-3


def test_rows_rewritten_after_acceptance_are_the_true_ones(paths, ids, expected):
    """Several tokens verified at once, their rows then written from the trunk's states."""
    with _engine(paths, "antirez") as engine:
        session = engine.session(N)
        session.sync(ids[:100])
        drafter = Drafter(session)
        at = 100
        for n in (1, 2, 3, 4, 5, 4, 3):
            assert drafter.ready()
            drafter.draft(session.hidden, ids[at], at)
            session.verify(ids[at : at + n])
            drafter.committed(at + 1)
            at += n
        assert drafter.ready()
        logits, _ = drafter.draft(session.hidden, ids[at], at)
        assert float(np.abs(logits - expected[at - 1]).max()) < 1e-3
